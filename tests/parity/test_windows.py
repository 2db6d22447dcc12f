"""The spectra of FARMS, image and language-model code, against the reference's numbers in float64.

What is not compared, and why:

* windows at a stride (`sampling_ops_per_dim` None): we have a number of windows along each side only;
* K = 1, and alpha_mid of the pruning code: the reference raises;
* layers in `window_exceeds_matrix`: its window starts at a negative index there, and ours is clipped;
* convolutions with fewer channels, in and out together, than their kernel has rows and columns: it slices those into
  kernels, and we slice every convolution into kernel positions;
* `norm_stable_rank`: no number of ours; `eigs_num` with `filter_zeros`: it counts after the filter, we before it;
* llama's cases without windows: scores of AlphaPruning, from weights that were rounded to float16.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from hf_tempbalance import TempBalanceConfig, analyze


# Cases and numbers compared: what is left out is in the list above, and nothing else.
COMPARED = {"cnn": (32, 1225), "mlp": (29, 516), "smallconv": (7, 120), "llama": (12, 216), "llama_gqa": (5, 70)}
FITS = {
    "median": "median",
    "xmin_mid": "median",
    "goodness-of-fit": "goodness-of-fit",
    None: "goodness-of-fit",
    "xmin_peak": "fix-finger",
    "fix-finger": "goodness-of-fit",  # FARMS does not know the name that TempBalance uses
}


@pytest.mark.parametrize("network", COMPARED)
def test_every_number_of_every_layer_is_farms(golden, network):
    described = json.loads((golden / "family" / f"{network}.json").read_text())
    model = build(golden / "family", described)
    # Many cases differ in what is done with the same numbers.
    spectra_of = cache(lambda config: {spectrum.name: spectrum for spectrum in analyze(model, config)})
    num_cases = num_numbers = 0
    for number, case in enumerate(described["cases"]):
        options = case["options"]
        has_windows = options.get("use_sliding_window", False)
        if not case["method"].startswith("farms") or "reference_error" in case:
            continue
        if has_windows and options["sampling_ops_per_dim"] is None or not has_windows and "llama" in network:
            continue
        exact = case if case["float64"] == "identical" else case["float64"]
        columns = exact.get("columns") or {options.get("esd_metric_for_tb", "alpha"): exact["scores"]}
        spectra = spectra_of(config_of(options))
        left_out = {*(case.get("window_exceeds_matrix") or ()), *(sliced_otherwise(model) if has_windows else ())}
        for column, values in columns.items():
            for name, expected in values.items():
                if column == "norm_stable_rank" or name in left_out:
                    continue
                found = getattr(spectra[name], column)
                assert found == pytest.approx(expected, rel=1e-6, abs=0), (number, column, name, options)
                num_numbers += 1
        counts = exact.get("eigs_num") or exact.get("num_window_eigs") or {}
        if not options.get("filter_zeros"):
            found = {name: spectra[name].num_eigenvalues for name in counts if name not in left_out}
            assert found == {name: count for name, count in counts.items() if name not in left_out}, (number, options)
        num_cases += 1
    assert (num_cases, num_numbers) == COMPARED[network]


def config_of(options: dict) -> TempBalanceConfig:
    """Our names for the reference's options."""
    return TempBalanceConfig(
        window_rows=options["num_row_samples"] if options["use_sliding_window"] else 0,
        window_aspect=options["Q_ratio"],
        window_samples=options["sampling_ops_per_dim"],
        fit=FITS[options.get("pl_fitting", options.get("fix_fingers"))],
        xmin_pos=options.get("xmin_pos", 2),
        filter_zeros=options.get("filter_zeros", False),
    )


def sliced_otherwise(model: nn.Module) -> set[str]:
    convolutions = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    return {name for name, m in convolutions.items() if sum(m.weight.shape[:2]) < sum(m.weight.shape[2:])}


def build(folder: Path, described: dict) -> nn.Module:
    """The layers of a network by their names, in float64."""
    weights = load_file(folder / described["weights"])
    root = nn.Module()
    for name, kind, shape in described["modules"]:
        made = {
            "Conv2d": lambda s=shape: nn.Conv2d(s[1], s[0], s[2:], bias=False),
            "Linear": lambda s=shape: nn.Linear(s[1], s[0], bias=False),
            "Embedding": lambda s=shape: nn.Embedding(*s),
        }.get(kind, nn.Identity)()
        *parents, last = name.split(".")
        parent = root
        for part in parents:
            if part not in dict(parent.named_children()):
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(last, made)
    assert not root.load_state_dict(weights, strict=False).missing_keys
    return root.to(torch.float64)
