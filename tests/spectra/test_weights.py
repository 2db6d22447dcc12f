"""Which matrices each kind of weight is, against a direct computation of every one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import mlp
from torch import nn
from torch.nn.utils import parametrizations

from hf_tempbalance import TempBalanceConfig, TempBalancer, analyze
from hf_tempbalance.spectra.weights import clean_name, find_weights


def matrices(module: nn.Module) -> list[np.ndarray]:
    """The matrices of a convolution: one for each kernel position, found with plain indexing."""
    weight = module.weight.detach().double().numpy()
    return [weight[(slice(None), slice(None), *position)] for position in np.ndindex(weight.shape[2:])]


def expected_norm_and_largest(stack: list[np.ndarray]) -> tuple[float, float]:
    values = np.concatenate([np.linalg.svd(matrix, compute_uv=False) ** 2 for matrix in stack])
    return values.sum(), values.max()


def spectrum_of(model: nn.Module, name: str, **options):
    config = TempBalanceConfig(conv_norm=1.0, min_eigenvalues=0, exclude_first=False, exclude_last=False, **options)
    return next(spectrum for spectrum in analyze(model, config) if spectrum.name == name)


@pytest.mark.parametrize(
    ("module", "kind", "count"),
    [
        (nn.Conv1d(8, 12, 5), "conv1d", 5 * 8),
        (nn.Conv2d(8, 12, (2, 3)), "conv2d", 6 * 8),
        (nn.Conv3d(8, 12, 2), "conv3d", 8 * 8),
        (nn.ConvTranspose1d(8, 12, 5), "conv_transpose1d", 5 * 8),
        (nn.ConvTranspose2d(8, 12, 3), "conv_transpose2d", 9 * 8),
        (nn.ConvTranspose3d(8, 12, 2), "conv_transpose3d", 8 * 8),
        (nn.Conv2d(8, 12, 3, groups=4), "conv2d", 9 * 2),  # as the reference: (out, in / groups), whole
        (nn.Conv2d(8, 8, 3, groups=8), "conv2d", 9),  # depthwise: columns
    ],
)
def test_every_convolution_is_one_matrix_for_each_kernel_position(module, kind, count):
    spectrum = spectrum_of(nn.ModuleDict({"layer": module}), "layer")
    norm, largest = expected_norm_and_largest(matrices(module))
    assert (spectrum.kind, spectrum.num_eigenvalues, spectrum.shape) == (kind, count, tuple(module.weight.shape))
    assert spectrum.norm == pytest.approx(norm, rel=1e-5)
    assert spectrum.spectral_norm == pytest.approx(largest, rel=1e-4)


def test_gpt2_s_conv1d_is_a_linear_layer_stored_the_other_way_round():
    from transformers.pytorch_utils import Conv1D

    module = Conv1D(96, 64)
    linear = nn.Linear(64, 96)
    linear.weight.data.copy_(module.weight.data.T)
    spectrum = spectrum_of(nn.ModuleDict({"layer": module}), "layer")
    assert (spectrum.kind, spectrum.shape, spectrum.num_eigenvalues) == ("linear", (64, 96), 64)
    assert spectrum.alpha == pytest.approx(spectrum_of(nn.ModuleDict({"layer": linear}), "layer").alpha, rel=1e-5)


def test_query_key_and_value_of_an_attention_are_three_matrices():
    module = nn.MultiheadAttention(64, 4)
    spectrum = spectrum_of(nn.ModuleDict({"attention": module}), "attention.in_proj_weight")
    parts = module.in_proj_weight.detach().double().numpy().reshape(3, 64, 64)
    norm, largest = expected_norm_and_largest(list(parts))
    assert (spectrum.kind, spectrum.num_eigenvalues) == ("in_proj", 192)
    assert (spectrum.norm, spectrum.spectral_norm) == pytest.approx((norm, largest), rel=1e-4)


def test_projections_of_an_attention_with_other_widths_are_one_layer_each():
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(64, 4, kdim=32, vdim=96)})
    names = [spectrum.name for spectrum in analyze(model)]
    assert names == [f"attention.{key}_proj_weight" for key in "qkv"] + ["attention.out_proj"]


class Experts(nn.Module):
    """As a mixture of experts in transformers: one parameter for all."""

    def __init__(self) -> None:
        super().__init__()
        self.num_experts = 4
        self.up_proj = nn.Parameter(torch.randn(4, 96, 64))
        self.up_proj_bias = nn.Parameter(torch.zeros(4, 96))
        self.table = nn.Parameter(torch.randn(7, 96, 64))  # three dimensions, and not one for each expert


def test_each_expert_is_a_matrix_and_their_bias_follows_them():
    model = nn.Sequential(nn.Linear(64, 64), Experts(), nn.Linear(64, 64), nn.Linear(64, 64))
    spectrum = spectrum_of(model, "1.up_proj")
    norm, largest = expected_norm_and_largest(list(model[1].up_proj.detach().double().numpy()))
    assert (spectrum.kind, spectrum.num_eigenvalues) == ("experts", 4 * 64)
    assert (spectrum.norm, spectrum.spectral_norm) == pytest.approx((norm, largest), rel=1e-4)
    assert spectrum_of(model, "1.table").excluded_by == "not_a_layer"
    balancer = TempBalancer(model, torch.optim.SGD(model.parameters(), lr=0.1))
    balancer.rebalance()
    multipliers = balancer.lr_multipliers
    assert multipliers["1.up_proj"] == multipliers["1.up_proj_bias"] == balancer.layer_multipliers["1.up_proj"] != 1
    assert multipliers["1.table"] == 1


def test_an_embedding_is_decomposed_and_tuned_on_demand_alone():
    model = nn.Sequential(nn.Embedding(100, 64), *(nn.Linear(64, 64) for _ in range(4)))
    plain = spectrum_of(model, "0")
    assert plain.excluded_by == "embedding" and np.isnan(plain.alpha)
    tuned = spectrum_of(model, "0", embeddings="tune")
    norm, _ = expected_norm_and_largest([model[0].weight.detach().double().numpy()])
    assert tuned.excluded_by is None and tuned.norm == pytest.approx(norm, rel=1e-5)


def test_a_tied_weight_is_tuned_once_under_the_name_that_comes_first():
    model = mlp(64, 64, 64, 64, 64, 64)
    model.fc3.weight = model.fc1.weight
    balancer = TempBalancer(model, torch.optim.SGD(model.parameters(), lr=0.1))
    balancer.rebalance()
    assert set(balancer.layer_multipliers) == {"fc1", "fc2"}
    assert "fc3.weight" not in balancer.lr_multipliers  # torch, too, has the parameter once


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_parametrized_layer_is_one_layer_with_the_weight_that_it_uses(wrap):
    model = mlp(64, 64, 64, 64, 64)
    wrap(model.fc1)
    names = [spectrum.name for spectrum in analyze(model)]
    assert names == ["fc0", "fc1", "fc2", "fc3"]
    weight = model.eval().fc1.weight.detach().double().numpy()
    assert spectrum_of(model, "fc1").norm == pytest.approx((weight**2).sum(), rel=1e-4)
    balancer = TempBalancer(model, torch.optim.SGD(model.parameters(), lr=0.1))
    owned = {name for name, layer in balancer._layer_of_name.items() if layer == "fc1"}
    assert {name.split(".")[0] for name in owned} == {"fc1"} and len(owned) >= 2


def test_parametrized_layers_are_not_taken_for_tied():
    model = mlp(64, 64, 64, 64, 64, 64)
    for layer in (model.fc1, model.fc2, model.fc3):
        parametrizations.weight_norm(layer)
    assert [spectrum.excluded_by for spectrum in analyze(model)] == ["first", None, None, None, "last"]


class PackedLinear(nn.Module):
    """As GPTQ and AWQ have them: packed integers in a buffer, no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("qweight", torch.ones(8, 64, dtype=torch.int32))


DTYPES = {dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
NARROW_FLOATS = sorted((dtype for dtype in DTYPES if dtype.is_floating_point and dtype.itemsize == 1), key=str)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, *NARROW_FLOATS], ids=str)
def test_quantized_weights_are_listed_and_left_alone(dtype):
    model = mlp(64, 64, 64, 64, 64, 64)
    model.fc2.weight = nn.Parameter(torch.zeros(64, 64, dtype=torch.uint8).view(dtype), requires_grad=False)
    model.fc3 = PackedLinear()
    rules = {spectrum.name: spectrum.excluded_by for spectrum in analyze(model)}
    assert rules == {"fc0": "first", "fc1": None, "fc2": "quantized", "fc3": "quantized", "fc4": "last"}


def test_complex_weights_are_listed_and_left_alone():
    model = nn.Sequential(nn.Linear(64, 64, dtype=torch.complex64), nn.Linear(64, 64), nn.Linear(64, 64))
    assert [spectrum.excluded_by for spectrum in analyze(model)] == ["dtype", None, "last"]


@pytest.mark.parametrize("module", ["torchao", "bitsandbytes"])
def test_weights_of_a_quantization_library_are_listed_and_left_alone(module):
    library = pytest.importorskip(module, reason=f"{module} is not installed")
    model = mlp(64, 64, 64, 64, 64)
    if module == "torchao":
        library.quantize_(model.fc1, library.quantization.Int8WeightOnlyConfig())
    else:
        model.fc1 = library.nn.Linear8bitLt(64, 64, has_fp16_weights=False).to("cpu")  # quantizes it
    assert [spectrum.excluded_by for spectrum in analyze(model)] == ["first", "quantized", None, "last"]


class Wrapper(nn.Module):
    """A user's own, with the attribute by which PEFT's layers hold theirs."""

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer, self.scale = base_layer, nn.Linear(64, 64)


def test_a_module_with_a_base_layer_of_its_own_keeps_its_layers():
    model = nn.Sequential(nn.Linear(64, 64), Wrapper(nn.Linear(64, 64)), nn.Linear(64, 64))
    assert {spectrum.name: spectrum.excluded_by for spectrum in analyze(model)} == {
        "0": "first",
        "1.base_layer": None,
        "1.scale": None,
        "2": "last",
    }


def test_timm_s_dla_has_a_base_layer_and_is_no_adapter():
    timm = pytest.importorskip("timm")
    rules = [weight.is_part_of_adapter for weight in find_weights(timm.create_model("dla34"))]
    assert len(rules) > 30 and not any(rules)


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("_orig_mod.layers.0.weight", "layers.0.weight"),
        ("layers.0._orig_mod.fc._checkpoint_wrapped_module.weight", "layers.0.fc.weight"),
        ("layers.0._orig_mod", "layers.0"),
        ("_fsdp_wrapped_module.module.fc", "module.fc"),
        ("module.fc", "module.fc"),
    ],
)
def test_names_are_without_what_wrappers_add(name, clean):
    assert clean_name(name) == clean


def test_a_block_that_is_compiled_by_itself_keeps_its_names():
    model = mlp(64, 64, 64, 64, 64)
    expected = analyze(model)
    model.fc1 = torch.compile(model.fc1)
    assert analyze(model) == expected
    balancer = TempBalancer(model, torch.optim.SGD(model.parameters(), lr=0.1))
    balancer.rebalance()
    assert balancer.lr_multipliers["fc1.weight"] == balancer.layer_multipliers["fc1"] != 1


def test_fsdp1_is_refused_with_the_way_out():
    class FullyShardedDataParallel(nn.Module):
        """Named as torch's: making a real one takes a process group."""

    model = nn.Sequential(mlp(64, 64, 64), FullyShardedDataParallel())
    with pytest.raises(ValueError, match="FSDP1.*Use FSDP2"):
        analyze(model)
