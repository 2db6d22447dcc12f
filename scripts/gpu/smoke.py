"""Short checks of what has other code on a GPU: ``python -m gpu.smoke CHECK --device cuda --json FILE``.

Each raises AssertionError with what differs, or returns what it measured.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hf_tempbalance import LayerSpectrum, TempBalanceConfig, TempBalancer, analyze
from hf_tempbalance.files import write_json


WIDTHS = (64, 96, 128, 300, 128, 96, 10)  # 300: larger than a block of the Gram matrices, and no multiple of one
# Without the entropy: it counts the eigenvalues above 0, and in float32 rounding decides which of a low rank are.
NUMBERS = ("alpha", "alpha_hat", "xmin", "spectral_norm", "norm", "stable_rank")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("check", choices=CHECKS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read when CUDA starts: the same sums in every run
    torch.manual_seed(0)
    row = {"check": options.check, **CHECKS[options.check](options.device)}
    write_json(options.json, {"rows": [row]})


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    """Two convolutions and linear layers on the CPU, with heavy-tailed spectra and equal sides among them."""
    pairs = itertools.pairwise(WIDTHS)
    convolutions = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 64, 3, padding=1), nn.ReLU()]
    linear = [m for a, b in pairs for m in (nn.Linear(a, b), nn.Tanh())][:-1]
    model = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *linear)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                scale = torch.rand(parameter.shape[1]).clamp_min(1e-3) ** -0.25
                parameter.mul_(scale.reshape(1, -1, *[1] * (parameter.dim() - 2)))
    return model.to(dtype)


def difference(found: list[LayerSpectrum], exact: list[LayerSpectrum]) -> tuple[float, str]:
    """The largest relative difference of any number of any layer, and where; raises where only one is a number."""
    worst = (0.0, "nowhere")
    for one, other in zip(found, exact, strict=True):
        assert (one.name, one.excluded_by) == (other.name, other.excluded_by), f"{one} is {other} on the CPU"
        for number in NUMBERS:
            a, b = getattr(one, number), getattr(other, number)
            assert (a == a) == (b == b), f"{number} of {one.name} is {a}, and {b} on the CPU"
            if b and b == b:
                worst = max(worst, (abs(a - b) / abs(b), f"{number} of {one.name}: {a} for {b}"))
    return worst


def compare(device: str, dtype: torch.dtype, configs: dict[str, TempBalanceConfig], allowed: float) -> dict[str, Any]:
    """Looks at a model on the device against the same numbers in float64 on the CPU."""
    errors = {}
    for name, config in configs.items():
        model = network(dtype)
        exact = analyze(model.double(), config)
        errors[name], where = difference(analyze(model.to(device=device, dtype=dtype), config), exact)
        assert errors[name] <= allowed, f"{name}: {where}, off by {errors[name]:.1e}; allowed is {allowed:.0e}"
    return {"largest difference": max(errors.values()), "allowed": allowed}


FITS = {
    fit: TempBalanceConfig(fit=fit, min_eigenvalues=1)
    for fit in ("median", "goodness-of-fit", "fix-finger", "xmin-peak")
}
# In float32 the start of a fitted tail can be the next eigenvalue; that is another number, and no error.
FIXED = {"median": FITS["median"], "shape-free": TempBalanceConfig.preset("shape-free")}
WINDOWS = {
    "windows": TempBalanceConfig(window_rows=32, window_samples=3, min_eigenvalues=1),
    "farms": TempBalanceConfig.preset("farms"),
    "wide windows": TempBalanceConfig(window_rows=48, window_aspect=2.0, window_samples=2, min_eigenvalues=1),
}


def float64(device: str) -> dict[str, Any]:
    return compare(device, torch.float64, FITS | WINDOWS, 1e-6)


def float32(device: str) -> dict[str, Any]:
    return compare(device, torch.float32, FIXED | WINDOWS, 1e-4)


def half_precision(device: str) -> dict[str, Any]:
    found = [compare(device, dtype, FIXED | WINDOWS, 1e-4) for dtype in (torch.bfloat16, torch.float16)]
    return max(found, key=lambda row: row["largest difference"])


def solver_ways(device: str) -> dict[str, Any]:
    """Every way of the package's table gives the eigenvalues, or says that this build lacks it."""
    from hf_tempbalance.spectra.solvers import WAYS

    worst, lacking = 0.0, {}
    for name, solve in WAYS.items():
        for side, dtype in itertools.product((24, 200, 700), (torch.float32, torch.float64)):
            weights = torch.randn(3, side, side + 5, dtype=torch.float64)
            gram = weights @ weights.mT
            exact = torch.linalg.eigvalsh(gram)
            lower = torch.where(torch.ones(side, side).tril().bool(), gram, torch.nan).to(dtype).to(device)
            try:
                found = solve(lower)
            except RuntimeError as error:
                lacking[name] = str(error).splitlines()[0]
                break
            error = ((found.double().cpu() - exact).abs().max() / exact.max()).item()
            assert error < 1e-4, f"{name} of side {side} in {dtype} is off by {error:.1e}"
            worst = max(worst, error)
    assert "torch" not in lacking, f"torch has no eigenvalues on {device}: {lacking['torch']}"
    return {"largest difference": worst, "lacking": lacking}


def batch(device: str) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(3)
    images = torch.randn(64, 1, 8, 8, generator=random)
    return images.to(device), torch.randint(10, (64,), generator=random).to(device)


def make_step(model: nn.Module, optimizer: torch.optim.Optimizer, device: str) -> Callable[[], None]:
    images, labels = batch(device)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def overlap(device: str) -> dict[str, Any]:
    """A look beside training is one at the weights as they were, and is waited for where it is due."""
    config = TempBalanceConfig(overlap=True, overlap_steps=4, min_eigenvalues=1)
    model = network().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    balancer = TempBalancer(model, optimizer, config)
    step = make_step(model, optimizer, device)
    balancer.rebalance()
    for _ in range(5):
        for _ in range(3):
            step()
        expected = analyze(model, config)
        balancer.take_looks()
        balancer.begin_look()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.01)  # at once, on the training's stream: a look without a copy would see it
        for _ in range(config.overlap_steps):
            step()
        assert balancer.take_looks() == [], "a look came into force too early"
        step()
        (look,) = balancer.take_looks()
        assert difference(look.spectra, expected)[0] < 1e-5, "a look saw weights of another moment"
        assert balancer.layer_multipliers == look.multipliers
    return {"waited": look.waited, "seconds": look.seconds}


def optimizers(device: str) -> dict[str, Any]:
    """Multipliers inside a step give the weights that torch's own parameter groups give, to the bit."""
    makers: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "SGD, foreach": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3, foreach=True),
        "AdamW, fused": lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True),
        "AdamW, foreach": lambda p: torch.optim.AdamW(p, lr=1e-3, foreach=True),
    }
    if device != "cpu":
        makers["AdamW, capturable"] = lambda p: torch.optim.AdamW(p, lr=1e-3, capturable=True)
    torch.use_deterministic_algorithms(True)
    for name, make in makers.items():
        torch.manual_seed(1)
        model, other = network().to(device), network().to(device)
        other.load_state_dict(model.state_dict())
        balancer = TempBalancer(model, make(model.parameters()))
        balancer.rebalance()
        groups = []
        for key, parameter in other.named_parameters():
            groups.append({"params": [parameter], "multiplier": balancer.lr_multipliers[key]})
        plain = make(groups)
        for group in plain.param_groups:
            group["lr"] = group["lr"] * group["multiplier"]
        step, other_step = make_step(model, balancer.optimizer, device), make_step(other, plain, device)
        for _ in range(5):
            step(), other_step()
        same = all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
        assert same, f"{name}: other weights than by parameter groups"
    return {"optimizers": list(makers)}


def resume(device: str) -> dict[str, Any]:
    """A Trainer that goes on from a checkpoint ends with the weights of one that was never stopped, to the bit."""
    from everywhere.rank import make_trainer
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_save = control.should_training_stop = state.global_step == 6

    config = TempBalanceConfig(update_unit="step", update_interval=2, min_eigenvalues=1)
    weights = []
    with tempfile.TemporaryDirectory() as folder:
        for name, callbacks, checkpoint in (("whole", [], None), ("cut", [Stop()], None), ("cut", [], True)):
            torch.manual_seed(2)
            changes = {"use_cpu": device == "cpu", "full_determinism": True, "save_strategy": "no"}
            changes |= {"learning_rate": 1e-3, "optim": "adamw_torch_fused", "optim_args": None}
            trainer = make_trainer(Path(folder, name), "trainer", *callbacks, tempbalance=config, **changes)
            trainer.train(resume_from_checkpoint=checkpoint)
            weights.append({key: value.cpu() for key, value in trainer.model.state_dict().items()})
    whole, cut, resumed = weights
    assert any(not torch.equal(whole[key], cut[key]) for key in whole), "the run was not cut off"
    differing = [key for key in whole if not torch.equal(whole[key], resumed[key])]
    assert not differing, f"resumed, {', '.join(differing)} differ"
    return {"parameters": len(whole)}


CHECKS: dict[str, Callable[[str], dict[str, Any]]] = {
    "float64": float64,
    "float32": float32,
    "half precision": half_precision,
    "solver ways": solver_ways,
    "overlap": overlap,
    "optimizers": optimizers,
    "resume": resume,
}


if __name__ == "__main__":
    main()
