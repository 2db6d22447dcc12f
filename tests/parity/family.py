"""The reference codes' cases: their networks, and their options in the names of `TempBalanceConfig`."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from hf_tempbalance import TempBalanceConfig


MAPPINGS = {
    "tb_linear_map": "linear",
    "tb_sqrt": "sqrt",
    "tb_log2": "log2",
    "tb_step": "step",
    "tbr": "step",
    "tb_std_sigmoid": "sigmoid",
}
METRICS = {"fnorm": "norm", "alphahat": "alpha_hat"}  # the others have our names
SCHEDULES = {"linear_map": "linear", "rank": "step", "sigmoid": "sigmoid"}
TARGETS = {"lr": "lr", "wd": "weight_decay", "hybrid": "both"}
FITS = {"median": "median", "xmin_mid": "median", "xmin_peak": "fix-finger"}  # any other name is goodness of fit


def config_of(case: dict[str, Any]) -> TempBalanceConfig:
    """Our options for a case's."""
    method = case["method"].removesuffix("_trace")
    return TempBalanceConfig(**SETTINGS[method](case["options"]))


def _farms(options: dict[str, Any]) -> dict[str, Any]:
    return {
        "window_rows": options["num_row_samples"] if options["use_sliding_window"] else 0,
        "window_aspect": options["Q_ratio"],
        "window_samples": options["sampling_ops_per_dim"],
        "batchnorm": options["batchnorm_type"] if options["batchnorm"] else "none",
        "min_ratio": options["lr_min_ratio"],
        "max_ratio": options["lr_max_ratio"],
        **_layers(options),
        "fit": FITS.get(options["pl_fitting"], "goodness-of-fit"),
    }


def _alphadecay(options: dict[str, Any]) -> dict[str, Any]:
    ratios = {"min_ratio": options["wd_min_ratio"], "max_ratio": options["wd_max_ratio"]}
    return {"target": "weight_decay", **ratios, **_layers(options)}


def _llr(options: dict[str, Any]) -> dict[str, Any]:
    # The embedding is the first row and the head the last: with both removed no layer is left that takes the largest.
    is_pinned = not options["remove_first_layer"]
    return {
        "min_ratio": options["lr_min_ratio"],
        "max_ratio": options["lr_max_ratio"],
        **_layers(options),
        "exclude_first": False,
        "embeddings": "largest" if is_pinned else "exclude",
        "ramp_steps": options.get("linear_steps", 0),
        "update_unit": "step",
        "update_interval": options.get("unbalancedlr_every", 1),
        "active_share": options.get("LLR_ratio", 1.0),
    }


def _layers(options: dict[str, Any]) -> dict[str, Any]:
    """What FARMS, AlphaDecay and LLR have from TempBalance."""
    metric = options["esd_metric_for_tb"]
    return {
        "fit": options["pl_fitting"],
        "xmin_pos": options["xmin_pos"],
        "filter_zeros": options["filter_zeros"],
        "metric": METRICS.get(metric, metric),
        "exclude_first": options["remove_first_layer"],
        "exclude_last": options["remove_last_layer"],
        "min_eigenvalues": options["eigs_thresh"],
        "mapping": MAPPINGS[options["assign_func"]],
    }


def _model_balancing(options: dict[str, Any]) -> dict[str, Any]:
    target = TARGETS[options["hyperparam_to_tune"]]
    tuned = "wd" if target == "weight_decay" else "lr"
    per_block = options[f"temp_balance_{tuned}"] == "tb_layer_blocks"
    mapping = SCHEDULES[options["schedule_func"]] if per_block else MAPPINGS[options[f"temp_balance_{tuned}"]]
    if mapping == "sigmoid":
        ratios = _sigmoid_ratios(options["sigmoid_min"], options["sigmoid_max"])
    else:
        low = options[f"{tuned}_min_ratio"]
        ratios = {"min_ratio": low, "max_ratio": low + options[f"{tuned}_slope"]}
    return {
        "fit": FITS.get(options["fix_fingers"], "goodness-of-fit"),
        "xmin_pos": options["xmin_pos"],
        "filter_zeros": options.get("filter_zeros") == "True",
        "metric": options["metric"],
        "unit": "block" if per_block else "layer",
        "exclude_first": False,
        "exclude_last": False,
        # The row that its remove_last removes; the other part of the head has too few eigenvalues.
        "exclude": () if per_block else ("classifier.dense",),
        "layernorm": not per_block,
        "mapping": mapping,
        **ratios,
        "sharpness": options["exp_temp"],
        "normalize": options.get("tb_lr_normalize") == "True",
        "target": target,
    }


def _model_balancing_sciml(options: dict[str, Any]) -> dict[str, Any]:
    mapping, low, slope = MAPPINGS[options["temp_balance_lr"]], options["lr_min_ratio"], options["lr_slope"]
    if mapping == "sigmoid":
        ratios = _sigmoid_ratios(low, slope)
    else:
        ratios = {"min_ratio": low, "max_ratio": low + slope}
    return {
        "fit": FITS.get(options["fix_fingers"], "goodness-of-fit"),
        "xmin_pos": options["xmin_pos"],
        "filter_zeros": options["filter_zeros"],
        "zero_threshold": options["EVALS_THRESH"],
        "metric": options["tb_metric"],
        "exclude_first": False,
        "exclude_last": False,
        "min_eigenvalues": options["eigs_thres"] + 1,  # it keeps out those with just as many, at the start
        "batchnorm": "name" if options["tb_batchnorm"] else "none",
        "mapping": mapping,
        **ratios,
        "sharpness": options["exp_temp"],
    }


def _sigmoid_ratios(below: float, above: float) -> dict[str, float]:
    return {"min_ratio": 10 ** (-below / 2), "max_ratio": 10 ** (above / 2)}


SETTINGS = {
    "farms": _farms,
    "alphadecay": _alphadecay,
    "llr": _llr,
    "model_balancing": _model_balancing,
    "model_balancing_sciml": _model_balancing_sciml,
}


@cache
def described(folder: Path, network: str) -> dict[str, Any]:
    """The file of a network and its cases."""
    return json.loads((folder / f"{network}.json").read_text())


@cache
def model_of(folder: Path, network: str, *, channels_first: bool = False) -> nn.Module:
    """Modules with the names, classes and weights of the file, in float64; without a forward pass.

    channels_first: with the weights of every Conv1d (out, in, k) turned to (in, k, out). Model Balancing's SciML code
    takes a matrix (in, k) for each output channel, where we take one (out, in) for each kernel position; turned, they
    are the same matrices.
    """
    model = build(folder, described(folder, network))
    for module in model.modules():
        if channels_first and isinstance(module, nn.Conv1d):
            module.weight = nn.Parameter(module.weight.detach().permute(1, 2, 0).contiguous())
    return model


def build(folder: Path, network: dict[str, Any]) -> nn.Module:
    """As `model_of`, a new one."""
    weights = load_file(folder / network["weights"])
    root = nn.Module()
    for name, kind, shape in network["modules"]:
        *parents, last = name.split(".")
        parent = root
        for part in parents:
            if part not in dict(parent.named_children()):
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(last, _module(kind, shape, has_bias=f"{name}.bias" in weights))
    unmatched = root.load_state_dict(weights, strict=False)
    assert not unmatched.unexpected_keys
    assert not [key for key in unmatched.missing_keys if key.endswith((".weight", ".bias"))]
    return root.double()


def _module(kind: str, shape: list[int], *, has_bias: bool) -> nn.Module:
    if kind == "LlamaRMSNorm":
        from transformers.models.llama.modeling_llama import LlamaRMSNorm

        return LlamaRMSNorm(shape[0])
    if kind.startswith("Conv"):
        return getattr(nn, kind)(shape[1], shape[0], tuple(shape[2:]), bias=has_bias)
    if kind == "Linear":
        return nn.Linear(shape[1], shape[0], bias=has_bias)
    return getattr(nn, kind)(*shape)  # Embedding, BatchNorm2d, LayerNorm


def with_adapters(folder: Path, network: dict[str, Any], lora: dict[str, Any]) -> nn.Module:
    """The network with the LoRA adapters of a case, as peft builds them; in float64.

    lora_alpha = r makes peft add B A itself, as the reference does whatever its lora_alpha is.
    """
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=lora["r"], lora_alpha=lora["r"], target_modules=lora["target_modules"], modules_to_save=["classifier"]
    )
    model = get_peft_model(build(folder, network), settings).double()
    for key, weight in load_file(folder / lora["weights"]).items():
        with torch.no_grad():
            model.get_parameter(f"base_model.model.{key}.default.weight").copy_(weight)
    return model


def looks_of(case: dict[str, Any]) -> list[int]:
    """The steps of a trace of LLR, from 1, before which the weights are looked at."""
    options = case["options"]
    last = int(options["LLR_ratio"] * options["stop_at"])
    return [1, *range(options["unbalancedlr_every"], last + 1, options["unbalancedlr_every"])]


def ramps_of(case: dict[str, Any]) -> list[tuple[int, int]]:
    """Of each ramp that reaches its end: the step at which it does, and the step of the next look."""
    looks = looks_of(case)
    found = []
    for look, following in zip(looks, [*looks[1:], len(case["mode"]) + 1], strict=True):
        end = look + case["options"]["linear_steps"] - (look == 1)
        if end < following and set(case["mode"][look - 1 : end]) == {"ramp"}:
            found.append((end, following))
    return found


def scale_rows(model: nn.Module) -> None:
    """What happens to the weights in the middle of some traces of LLR."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                rows = torch.arange(len(module.weight), dtype=module.weight.dtype).unsqueeze(1)
                module.weight.mul_(1 + 0.5 * torch.cos(rows))
