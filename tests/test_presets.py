"""Presets: published methods as settings, by name everywhere."""

from __future__ import annotations

import json

import pytest
import yaml

from hf_tempbalance import TempBalanceConfig, TempBalanceTrainingArguments
from hf_tempbalance.cli.main import main
from hf_tempbalance.huggingface.parser import ConfigArgumentParser
from hf_tempbalance.presets import PRESETS


NAMES = ["tempbalance", "tempbalance-lm", "model-balancing", "farms", "alphadecay", "llr", "llrd", "shape-free"]


def test_these_are_the_presets():
    assert list(PRESETS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_names_its_source_and_only_what_differs_from_the_defaults(name):
    defaults = TempBalanceConfig().to_dict()
    assert PRESETS[name].source and PRESETS[name].what
    assert [key for key, value in PRESETS[name].settings.items() if defaults[key] == value] == []


def test_tempbalance_is_the_defaults():
    assert TempBalanceConfig.preset("tempbalance") == TempBalanceConfig()


def test_changes_win_over_the_preset():
    assert TempBalanceConfig.preset("llr", max_ratio=5).max_ratio == 5
    assert TempBalanceConfig.preset("llr", max_ratio=5).embeddings == "largest"


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("model-balance", {}, "unknown preset 'model-balance'. Did you mean 'model-balancing'"),
        ("llr", {"max_ration": 3}, "unknown option 'max_ration'. Did you mean 'max_ratio'"),
        ("llrd", {"window_rows": 100}, "metric='depth' takes no spectrum, and window_rows=100"),
    ],
)
def test_what_does_not_exist_is_refused(name, changes, message):
    with pytest.raises(ValueError, match=message):
        TempBalanceConfig.preset(name, **changes)


def parsed(folder, *flags: str, **file) -> TempBalanceConfig:
    if file:
        (folder / "options.yaml").write_text(yaml.safe_dump(file))
        flags = ("--config", str(folder / "options.yaml"), *flags)
    parser = ConfigArgumentParser((TempBalanceConfig, TempBalanceTrainingArguments))
    return parser.parse(["--output_dir", str(folder), *flags])[0]


def test_a_command_line_or_a_file_takes_a_preset_and_what_is_nearer_wins(tmp_path):
    farms = TempBalanceConfig.preset("farms")
    assert parsed(tmp_path, "--preset", "farms") == parsed(tmp_path, preset="farms") == farms
    assert parsed(tmp_path, "--min_ratio=0.3", preset="farms") == TempBalanceConfig.preset("farms", min_ratio=0.3)
    assert parsed(tmp_path, preset="farms", min_ratio=0.3) == TempBalanceConfig.preset("farms", min_ratio=0.3)
    assert parsed(tmp_path, "--preset=llr", preset="farms", min_ratio=0.3).embeddings == "largest"
    assert parsed(tmp_path, "--exclude", "a.*", "*.b").exclude == ("a.*", "*.b")


def test_an_old_name_in_a_file_is_refused_with_the_new_one(tmp_path):
    with pytest.raises(ValueError, match="options.yaml: unknown key 'lr_min_ratio': now min_ratio"):
        parsed(tmp_path, lr_min_ratio=0.3)


def test_the_command_shows_them_side_by_side_in_80_columns(capsys):
    assert main(["presets"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    for name, preset in PRESETS.items():
        assert f"\n{name}\n" in f"\n{text}" and preset.source[:30] in " ".join(text.split())
    assert main(["presets", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {name: preset.settings for name, preset in PRESETS.items()}


def test_the_command_shows_all_settings_of_one(capsys):
    assert main(["presets", "llr", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == TempBalanceConfig.preset("llr").to_dict()
    assert main(["presets", "llr"]) == 0
    assert "* embeddings = largest" in capsys.readouterr().out
    assert main(["presets", "llrr"]) == 1
    assert capsys.readouterr().err == "hf-tempbalance: unknown preset 'llrr'. Did you mean 'llr'?\n"
