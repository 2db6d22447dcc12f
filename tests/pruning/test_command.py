"""``hf-tempbalance sparsities``: a table that fits a terminal, and JSON."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from hf_tempbalance import LayerSpectrum, TempBalanceConfig, analyze, layer_sparsities
from hf_tempbalance.cli import main as cli
from hf_tempbalance.cli.sparsities import table


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    size = {"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 3, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=300, **size))


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("llama")
    model.save_pretrained(path)
    return str(path)


def command(capsys, *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.main(["sparsities", *arguments])
    return (code, *capsys.readouterr())


def test_json_is_the_sparsity_of_each_layer_with_the_paper_s_fit(model, folder, tmp_path, capsys):
    expected = layer_sparsities(analyze(model, TempBalanceConfig(fit="fix-finger")), 0.6)
    code, out, _ = command(capsys, folder, "--sparsity", "0.6", "--json")
    assert code == 0 and json.loads(out) == pytest.approx(expected, rel=1e-9)
    target = tmp_path / "sparsities.json"
    options = ["--spread", "0.2", "--unit", "layer", "--fit", "median", "--json", str(target)]
    code, out, _ = command(capsys, folder, "--sparsity", "0.6", *options)
    assert code == 0 and out.startswith("layer ")
    expected = layer_sparsities(analyze(model), 0.6, spread=0.2, unit="layer")
    assert json.loads(target.read_text()) == pytest.approx(expected, rel=1e-6)


def test_the_table_has_a_line_for_each_block_and_the_total(model, folder, capsys):
    sparsities = layer_sparsities(analyze(model, TempBalanceConfig(fit="fix-finger")), 0.5)
    code, out, _ = command(capsys, folder, "--sparsity", "0.5")
    lines = out.splitlines()
    assert code == 0 and lines[0].split() == ["block", "layers", "weights", "alpha", "sparsity"]
    for index, line in enumerate(lines[1:4]):
        name, layers, weights, _, share = line.split()
        assert (name, layers, weights) == (f"model.layers.{index}", "7", "49,408")
        assert share == f"{sparsities[f'{name}.mlp.up_proj']:.4f}"
    assert lines[4:] == ["21 layers, 148,224 weights, sparsity 0.5000 in all; alpha: fit fix-finger"]


def test_layers_that_lose_every_weight_are_said(folder, capsys):
    _, out, _ = command(capsys, folder, "--sparsity", "0.9", "--spread", "0.9")
    assert "at sparsity 1 nothing is left of 14 layers: a smaller --spread" in out.splitlines()[-1]


@pytest.mark.parametrize(
    "prefix",
    ["h", "model.vision_tower.vision_model.encoder.layers", "model.vision_tower.a_name_of_some_length.layers"],
)
@pytest.mark.parametrize("unit", ["block", "layer"])
def test_no_line_is_longer_than_the_terminal_and_no_name_is_cut(prefix, unit):
    template = replace(analyze(nn.Sequential(nn.Linear(64, 64)))[0], shape=(28672, 8192))
    ends = [f"{block}.self_attn.out_proj" for block in (0, 10)]
    spectra: list[LayerSpectrum] = [replace(template, name=f"{prefix}.{end}", alpha=12.3) for end in ends]
    sparsities = layer_sparsities(spectra, 0.7, unit=unit)
    piped, shown = (list(table(spectra, sparsities, unit, width)) for width in (None, 80))
    assert max(map(len, shown)) <= 80
    whole = [f"{prefix}.{end if unit == 'layer' else end.partition('.')[0]}" for end in ends]
    assert [line.split()[0] for line in piped[1:3]] == whole
    start = shown[0].removeprefix("names after ") if shown[0].startswith("names after ") else ""
    rows = [line.split()[0] for line in shown if "0.7000" in line and "in all" not in line]
    assert [start + name for name in rows] == whole


@pytest.mark.parametrize(
    "options, message",
    [
        (["--sparsity", "70"], "--sparsity=70.0 is not allowed: it must be between 0 and 1."),
        (["--sparsity", "0.7", "--spread", "-1"], "--spread=-1.0 is not allowed: it must be between 0 and 1."),
    ],
)
def test_a_value_that_is_not_allowed_is_said_before_any_spectrum_is_computed(folder, options, message, capsys):
    assert command(capsys, folder, *options) == (1, "", f"hf-tempbalance: {message}\n")


def test_a_file_without_numbered_blocks_has_nothing_to_prune(tmp_path, capsys):
    save_file({"fc.weight": torch.randn(64, 64)}, tmp_path / "net.safetensors")
    code, _, err = command(capsys, str(tmp_path / "net.safetensors"), "--sparsity", "0.5")
    assert code == 1 and "There is nothing to prune" in err and err.count("\n") == 1
    code, out, _ = command(capsys, str(tmp_path / "net.safetensors"), "--sparsity", "0.5", "--unit", "layer")
    assert code == 0 and out.splitlines()[1].split()[0] == "fc"


def test_the_python_of_the_page_runs_as_printed():
    page = Path(__file__).parents[2] / "docs" / "methods" / "alphapruning.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    found: dict = {}
    exec(code, found)
    zeros = sum((found["model"].get_submodule(name).weight == 0).sum().item() for name in found["sparsities"])
    weights = sum(found["model"].get_submodule(name).weight.numel() for name in found["sparsities"])
    assert zeros / weights == pytest.approx(0.5, abs=1e-3)
