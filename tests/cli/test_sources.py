"""Reading of weight files: how often, and how much at a time."""

from __future__ import annotations

import json

import pytest
import safetensors
import torch
from safetensors.torch import save_file

from hf_tempbalance.cli import sources
from hf_tempbalance.cli.sources import open_source
from hf_tempbalance.spectra.analysis import analyze_weights


def test_a_header_is_read_once_however_many_tensors_a_file_has(tmp_path, monkeypatch):
    file = tmp_path / "model.safetensors"
    save_file({f"layers.{i}.weight": torch.randn(8, 8) for i in range(50)}, file)
    read: list[str] = []

    def spy(name, original):
        def counted(*arguments, **options):
            read.append(name)
            return original(*arguments, **options)

        return counted

    monkeypatch.setattr(safetensors, "safe_open", spy("safe_open", safetensors.safe_open))
    monkeypatch.setattr(sources.json, "loads", spy("json", json.loads))
    assert len(list(analyze_weights(open_source(str(file)).weights))) == 50
    assert sorted(read) == ["json", "safe_open"]


def test_numbers_are_those_of_the_library_and_in_memory_of_their_own(tmp_path):
    file = tmp_path / "model.safetensors"
    stored = {
        f"{dtype}.weight".removeprefix("torch."): torch.randn(6, 5).to(dtype)
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    } | {"none.weight": torch.empty(0, 5), "conv.weight": torch.randn(4, 3, 2, 2), "bias": torch.randn(3)}
    save_file(stored, file, metadata={"format": "pt"})
    found = {weight.name: weight.whole() for weight in open_source(str(file)).weights}
    assert found.keys() == {key.removesuffix(".weight") for key in stored if key != "bias"}
    for name, tensor in found.items():
        assert torch.equal(tensor, stored[f"{name}.weight"]) and tensor.dtype == stored[f"{name}.weight"].dtype
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_a_file_that_is_cut_off_while_it_is_read_is_named(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"layer.weight": torch.randn(8, 8)}, file)
    weights = open_source(str(file)).weights
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"model\.safetensors became shorter while it was read"):
        weights[0].whole()
