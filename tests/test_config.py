from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, replace
from typing import get_args, get_type_hints

import pytest

from hf_tempbalance import TempBalanceConfig


def test_the_defaults_are_the_paper_s():
    config = TempBalanceConfig()
    assert (config.fit, config.xmin_pos, config.metric, config.mapping) == ("median", 2.0, "alpha", "linear")
    assert (config.lr_min_ratio, config.lr_max_ratio, config.conv_norm) == (0.5, 1.5, 0.5)
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
        ("lr_min_ratio", -0.1, "0 or larger"),
        ("lr_min_ratio", float("nan"), "a finite number"),
        ("lr_max_ratio", float("nan"), "a finite number"),
        ("lr_max_ratio", float("inf"), "a finite number"),
        ("lr_max_ratio", "1.5", "a finite number"),
        ("xmin_pos", 1, "above 1"),
        ("xmin_pos", 0.5, "above 1"),
        ("conv_norm", 0.0, "above 0"),
        ("zero_threshold", -1e-9, "0 or larger"),
        ("bins", 0, "1 or larger"),
        ("bins", 1.5, "a whole number"),
        ("min_eigenvalues", -1, "0 or larger"),
        ("update_interval", 0, "1 or larger"),
        ("update_interval", True, "a whole number"),
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
    with pytest.raises(ValueError, match=r"lr_min_ratio=1.6 is larger than lr_max_ratio=1.5"):
        TempBalanceConfig(lr_min_ratio=1.6)


def test_equal_ratios_are_allowed():
    assert TempBalanceConfig(lr_min_ratio=1.0, lr_max_ratio=1.0).lr_max_ratio == 1.0


CHANGED = TempBalanceConfig(fit="xmin-peak", lr_min_ratio=0.6, lr_max_ratio=1, zero_threshold=1e-7, layernorm=True)


def test_dict_json_and_yaml_give_the_config_back():
    assert TempBalanceConfig.from_dict(CHANGED.to_dict()) == CHANGED
    assert TempBalanceConfig.from_json(CHANGED.to_json()) == CHANGED
    assert TempBalanceConfig.from_yaml(CHANGED.to_yaml()) == CHANGED
    assert CHANGED != TempBalanceConfig()


def test_yaml_numbers_with_an_exponent_are_numbers():
    assert TempBalanceConfig.from_yaml("zero_threshold: 1e-6").zero_threshold == 1e-6


def test_an_unknown_key_is_refused_with_the_nearest_one():
    with pytest.raises(ValueError, match="unknown option 'lr_min'. Did you mean 'lr_min_ratio'"):
        TempBalanceConfig.from_dict({"lr_min": 0.5})


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
    choices = [(name, choice) for name, hint in hints.items() for choice in get_args(hint)]
    assert len(choices) == 4 + 7 + 4 + 3 + 2
    for name, choice in choices:
        assert getattr(TempBalanceConfig(**{name: choice}), name) == choice


def test_it_loads_without_torch():
    code = "import sys; sys.modules['torch'] = None; import hf_tempbalance.config as c; c.TempBalanceConfig()"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
