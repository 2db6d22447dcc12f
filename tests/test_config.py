from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, replace
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_tempbalance import TempBalanceConfig


def test_the_defaults_are_the_paper_s():
    config = TempBalanceConfig()
    assert (config.fit, config.xmin_pos, config.metric, config.mapping) == ("median", 2.0, "alpha", "linear")
    assert (config.min_ratio, config.max_ratio, config.conv_norm) == (0.5, 1.5, 0.5)
    assert (config.exclude_first, config.exclude_last, config.min_eigenvalues) == (True, True, 50)
    assert (config.batchnorm, config.layernorm, config.update_unit, config.update_interval) == (
        "name",
        False,
        "epoch",
        1,
    )


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("fit", "mean", "'median'"),
        ("metric", "alphahat", "'alpha_hat'"),
        ("mapping", "tb_linear_map", "'linear'"),
        ("batchnorm", True, "'name'"),
        ("update_unit", "steps", "'step'"),
        ("min_ratio", -0.1, "0 or larger"),
        ("min_ratio", float("nan"), "a finite number"),
        ("max_ratio", float("nan"), "a finite number"),
        ("max_ratio", float("inf"), "a finite number"),
        ("max_ratio", "1.5", "a finite number"),
        ("xmin_pos", 1, "above 1"),
        ("xmin_pos", 0.5, "above 1"),
        ("conv_norm", 0.0, "above 0"),
        ("zero_threshold", -1e-9, "0 or larger"),
        ("bins", 0, "1 or larger"),
        ("bins", 1.5, "a whole number"),
        ("min_eigenvalues", -1, "0 or larger"),
        ("update_interval", 0, "above 0"),
        ("update_interval", True, "a finite number"),
        ("update_interval", 1.5, "a whole number of epochs, or a fraction of one below 1"),
        ("exclude_first", "false", "True or False"),
        ("layernorm", 1, "True or False"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_with_field_value_and_what_is_allowed(field, value, allowed):
    with pytest.raises(ValueError) as error:
        TempBalanceConfig(**{field: value})
    assert f"{field}={value!r}" in str(error.value)
    assert allowed in str(error.value)


def test_ratios_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match=r"min_ratio=1.6 is larger than max_ratio=1.5"):
        TempBalanceConfig(min_ratio=1.6)


def test_equal_ratios_are_allowed():
    assert TempBalanceConfig(min_ratio=1.0, max_ratio=1.0).max_ratio == 1.0


CHANGED = TempBalanceConfig(fit="xmin-peak", min_ratio=0.6, max_ratio=1, zero_threshold=1e-7, layernorm=True)


def test_dict_json_and_yaml_give_the_config_back():
    assert TempBalanceConfig.from_dict(CHANGED.to_dict()) == CHANGED
    assert TempBalanceConfig.from_json(CHANGED.to_json()) == CHANGED
    assert TempBalanceConfig.from_yaml(CHANGED.to_yaml()) == CHANGED
    assert CHANGED != TempBalanceConfig()


def test_yaml_numbers_with_an_exponent_are_numbers():
    assert TempBalanceConfig.from_yaml("zero_threshold: 1e-6").zero_threshold == 1e-6


def test_an_unknown_key_is_refused_with_the_nearest_one():
    with pytest.raises(ValueError, match="unknown option 'min_rate'. Did you mean 'min_ratio'"):
        TempBalanceConfig.from_dict({"min_rate": 0.5})


def test_an_option_s_old_name_is_refused_with_the_new_one():
    with pytest.raises(ValueError, match="unknown option 'lr_min_ratio': now min_ratio"):
        TempBalanceConfig.from_dict({"lr_min_ratio": 0.5})


def test_it_is_frozen_and_a_changed_copy_is_checked():
    with pytest.raises(FrozenInstanceError):
        CHANGED.fit = "median"
    with pytest.raises(ValueError, match="fit='mean'"):
        replace(CHANGED, fit="mean")


def test_every_option_has_a_help_text_that_argparse_can_print():
    for option in fields(TempBalanceConfig):
        assert option.metadata["help"].endswith(".")
        assert "%" not in option.metadata["help"]


def test_every_choice_is_accepted():
    hints = get_type_hints(TempBalanceConfig)
    choices = [(name, choice) for name, hint in hints.items() for choice in get_args(hint) if isinstance(choice, str)]
    assert len(choices) == 4 + 9 + 2 + 3 + 3 + 6 + 4 + 3 + 2
    for name, choice in choices:
        assert getattr(TempBalanceConfig(**{name: choice}), name) == choice


def test_it_loads_without_torch():
    code = "import sys; sys.modules['torch'] = None; import hf_tempbalance.config as c; c.TempBalanceConfig()"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("field", "value", "plain"),
    [
        ("min_ratio", np.float32(0.25), 0.25),
        ("max_ratio", np.float64(1.25), 1.25),
        ("max_ratio", np.int64(2), 2),
        ("bins", np.int64(50), 50),
        ("min_eigenvalues", np.uint8(7), 7),
        ("layernorm", np.bool_(True), True),
        ("fit", np.str_("xmin-peak"), "xmin-peak"),
    ],
)
def test_numpy_s_numbers_become_python_s_and_survive_json_and_yaml(field, value, plain):
    config = TempBalanceConfig(**{field: value})
    assert type(getattr(config, field)) is type(plain) and getattr(config, field) == plain
    assert TempBalanceConfig.from_json(config.to_json()) == TempBalanceConfig.from_yaml(config.to_yaml()) == config


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_ratio", np.array(1.25)),
        ("max_ratio", np.full((3, 3), 1.25)),
        ("max_ratio", torch.tensor(1.25)),
        ("max_ratio", 10**400),
        ("max_ratio", 10**5000),
        ("max_ratio", np.float64("nan")),
        ("bins", 10**400),
        ("bins", np.array(3)),
        ("bins", np.timedelta64(3, "s")),
        ("layernorm", np.array(True)),
        ("fit", ["median"]),
    ],
    ids=lambda part: type(part).__name__,
)
def test_arrays_and_numbers_too_large_are_refused_in_one_short_line(field, value):
    with pytest.raises(ValueError, match=f"^{field}=.* is not allowed: it must be ") as error:
        TempBalanceConfig(**{field: value})
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


NO_MAPPINGS = ['["fit"]', '"median"', "1.5", "true", "[]", "0", '""', "false"]


@pytest.mark.parametrize("read", [TempBalanceConfig.from_json, TempBalanceConfig.from_yaml])
@pytest.mark.parametrize("text", NO_MAPPINGS)
def test_what_is_no_mapping_is_refused(read, text):
    with pytest.raises(ValueError, match=r"^the options of TempBalance are .* and should be a mapping"):
        read(text)


def test_null_is_no_json_mapping_and_an_empty_yaml_file_is_the_defaults():
    with pytest.raises(ValueError, match="are None and should be a mapping"):
        TempBalanceConfig.from_json("null")
    with pytest.raises(ValueError, match="are None and should be a mapping"):
        TempBalanceConfig.from_dict(None)
    assert TempBalanceConfig.from_yaml("") == TempBalanceConfig.from_yaml("# nothing yet") == TempBalanceConfig()


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (TempBalanceConfig.from_json, "{", "are no JSON: Expecting property name"),
        (TempBalanceConfig.from_json, None, "are no JSON: the JSON object must be str"),
        (TempBalanceConfig.from_json, "[" * 100_000, "are no JSON: maximum recursion depth"),
        (TempBalanceConfig.from_json, '{"bins": ' + "1" * 5000 + "}", "are no JSON: Exceeds the limit"),
        (TempBalanceConfig.from_json, '{"max_ratio": 1e400}', "max_ratio=inf is not allowed"),
        (TempBalanceConfig.from_json, '{"max_ratio": "nan"}', "max_ratio='nan' is not allowed"),
        (TempBalanceConfig.from_json, f'{{"max_ratio": {10**400}}}', "max_ratio=1000.*is not allowed"),
        (TempBalanceConfig.from_yaml, "fit: [", "are no YAML: while parsing"),
        (TempBalanceConfig.from_yaml, "fit: !!timestamp x", "are no YAML"),
        (TempBalanceConfig.from_yaml, "fit: !!bool x", "are no YAML"),
        (TempBalanceConfig.from_yaml, "[" * 10_000, "are no YAML: maximum recursion depth"),
        (TempBalanceConfig.from_yaml, "max_ratio: 1e400", "max_ratio=inf is not allowed"),
        (TempBalanceConfig.from_yaml, "max_ratio: nan", "max_ratio=nan is not allowed"),
        (TempBalanceConfig.from_yaml, "max_ratio: one", "max_ratio='one' is not allowed"),
        (TempBalanceConfig.from_yaml, "fit: &a [*a]", r"fit=\[\[.*is not allowed"),
        (TempBalanceConfig.from_yaml, "1: 2", "unknown option 1. Allowed are: active_share"),
        (TempBalanceConfig.from_dict, {None: 1}, "unknown option None. Allowed are: active_share"),
    ],
    ids=lambda part: str(part)[:40],
)
def test_text_that_is_damaged_is_refused_in_one_line(read, text, message):
    with pytest.raises(ValueError, match=message) as error:
        read(text)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


NAMES = st.sampled_from([option.name for option in fields(TempBalanceConfig)])
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([10**400, "1e400", "nan"])
)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5)


@given(st.dictionaries(NAMES | st.text() | st.integers() | st.none(), VALUES) | VALUES, st.text())
def test_nothing_but_a_value_error_leaves_the_constructors(options, text):
    quoted = json.dumps(options)
    for read, given_ in [
        (TempBalanceConfig.from_dict, options),
        (TempBalanceConfig.from_json, quoted),
        (TempBalanceConfig.from_json, quoted[:-1] + text),
        (TempBalanceConfig.from_yaml, quoted),
        (TempBalanceConfig.from_yaml, text),
        (TempBalanceConfig.from_yaml, f"{text}: {quoted}"),
    ]:
        with contextlib.suppress(ValueError):
            assert TempBalanceConfig.from_json(read(given_).to_json()) == read(given_)
