"""Single layers and whole networks against the reference implementation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from hf_tempbalance import TempBalanceConfig, TempBalancer, analyze


COMMITTED = Path(__file__).resolve().parents[1] / "golden"
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
NETWORKS = pytest.mark.parametrize("network", ["resnet18_w025", "wrn16_2"])


@DTYPES
def test_every_value_of_single_layers(dtype):
    rows = json.loads((COMMITTED / "matrices.json").read_text())["rows"]
    assert len(rows) >= 5
    for row in rows:
        model = nn.Sequential(layer_of(row)).to(dtype)
        for fit, expected in row["expected"].items():
            spectrum = analyze(model, TempBalanceConfig(fit=fit))[0]
            mine = {
                "alpha": spectrum.alpha,
                "alphahat": spectrum.alpha_hat,
                "spectral_norm": spectrum.spectral_norm,
                "norm": spectrum.norm,
                "D": spectrum.D,
                "eigs_num": spectrum.num_eigenvalues,
            }
            assert mine == pytest.approx(expected, rel=TOLERANCE[dtype]), (row["shape"], row["law"], fit)


@pytest.mark.parametrize("path", sorted(COMMITTED.glob("*.json")), ids=lambda path: path.stem)
def test_a_committed_file_is_the_reference_s(golden, path):
    assert json.loads(path.read_text()) == json.loads((golden / path.name).read_text())


def layer_of(row: dict) -> nn.Module:
    shape, generator = row["shape"], np.random.default_rng(row["seed"])
    weight = generator.standard_normal(shape) if row["law"] == "gauss" else generator.standard_t(2.5, size=shape)
    weight = (weight / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    module = nn.Linear(1, 1) if row["kind"] == "linear" else nn.Conv2d(1, 1, 1)
    module.weight = nn.Parameter(torch.from_numpy(weight))
    return module


@DTYPES
@NETWORKS
def test_alpha_of_every_layer_of_a_network(golden, network, dtype):
    described = json.loads((golden / f"{network}.json").read_text())
    alphas = {spectrum.name: spectrum.alpha for spectrum in analyze(build(golden, described).to(dtype))}
    assert alphas == pytest.approx(described["alpha_all_layers"], rel=TOLERANCE[dtype])


@DTYPES
@NETWORKS
def test_the_rate_of_every_parameter_of_a_network_under_every_setting(golden, network, dtype):
    described = json.loads((golden / f"{network}.json").read_text())
    model = build(golden, described).to(dtype)
    assert len(described["cases"]) == 14
    for case in described["cases"]:
        optimizer = torch.optim.SGD(model.parameters(), lr=described["untuned_lr"])
        balancer = TempBalancer(model, optimizer, config_of(case["options"]))
        balancer.rebalance()
        rates = {name: described["untuned_lr"] * m for name, m in balancer.lr_multipliers.items()}
        assert rates == pytest.approx(case["lr_by_parameter"], rel=TOLERANCE[dtype]), case["options"]


def build(golden: Path, described: dict) -> nn.Module:
    """A network without a forward pass: modules with the names and weights of the file."""
    weights = load_file(golden / described["weights"])
    root = nn.Module()
    for name, kind, shape in described["modules"]:
        has_bias = f"{name}.bias" in weights
        made = {
            "Conv2d": lambda s=shape, b=has_bias: nn.Conv2d(s[1], s[0], s[2:], bias=b),
            "Linear": lambda s=shape, b=has_bias: nn.Linear(s[1], s[0], bias=b),
            "BatchNorm2d": lambda s=shape: nn.BatchNorm2d(s[0]),
        }[kind]()
        *parents, last = name.split(".")
        parent = root
        for part in parents:
            if part not in dict(parent.named_children()):
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(last, made)
    unmatched = root.load_state_dict(weights, strict=False)
    assert not unmatched.unexpected_keys
    assert not [key for key in unmatched.missing_keys if key.endswith((".weight", ".bias"))]
    return root


def config_of(options: dict) -> TempBalanceConfig:
    """Our names for the reference's options."""
    values = {
        "assign_func": (
            "mapping",
            {"tb_linear_map": "linear", "tb_sqrt": "sqrt", "tb_log2": "log2", "tb_step": "step"},
        ),
        "esd_metric_for_tb": ("metric", {"alphahat": "alpha_hat", "spectral_norm": "spectral_norm"}),
        "batchnorm": ("batchnorm", {False: "none"}),
        "pl_fitting": ("fit", None),
        "lr_min_ratio": ("min_ratio", None),
        "lr_max_ratio": ("max_ratio", None),
        "remove_first_layer": ("exclude_first", None),
        "remove_last_layer": ("exclude_last", None),
        "eigs_thresh": ("min_eigenvalues", None),
        "xmin_pos": ("xmin_pos", None),
        "batchnorm_type": ("batchnorm", None),
        "filter_zeros": ("filter_zeros", None),
    }
    pairs = ((values[name], value) for name, value in options.items())
    return TempBalanceConfig(**{name: value if names is None else names[value] for (name, names), value in pairs})
