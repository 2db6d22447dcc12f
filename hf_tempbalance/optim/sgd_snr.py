"""`SGDSNR`: SGD with spectral-norm regularisation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.sgd import sgd


POWER_ITERATIONS = 5


class SGDSNR(torch.optim.SGD):
    r"""torch's SGD on the loss plus lambda / 2 times the squared spectral norm of every weight.

    For each parameter with two dimensions or more, as a matrix W of shape (first dimension, all others),

        gradient += lambda * sigma * u v^T,    sigma = u^T W v

    the gradient of lambda / 2 sigma^2, where u and v are the singular vectors of the largest singular value sigma,
    found by 5 power iterations from a random start at every step. Weight decay and momentum then work as in SGD.
    The matrix of a convolution has the kernel positions side by side; TempBalance's spectra have them apart.

    Matrices of one shape are iterated together. The random starts are a function of the step alone, so every process
    and every resumed run draws the same; ``group["step"]`` counts. No generator of torch's is read or changed.

    Args:
        params: parameters or groups, as for SGD; a group may have its own ``spectral_norm_regularization``.
        lr: as for SGD.
        spectral_norm_regularization: lambda, 0 or larger, in units of the loss per squared weight.
        **kwargs: as for SGD (momentum, weight_decay, nesterov, ...).

    Raises:
        ValueError: ``spectral_norm_regularization`` is negative or not finite.

    Source:
        Yoshida, Miyato, "Spectral norm regularization for improving the generalizability of deep learning", 2017;
        "SNR" in the comparison of Zhou et al., NeurIPS 2023. differs from the reference code before 2025-04-07, which
        left the spectral term out where weight decay was not 0.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        *,
        spectral_norm_regularization: float = 0.01,
        **kwargs: Any,
    ) -> None:
        self._spectral_norm_regularization = spectral_norm_regularization  # while the base class adds the groups
        super().__init__(params, lr, **kwargs)
        self.defaults["spectral_norm_regularization"] = spectral_norm_regularization

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group as SGD does, after a check of its ``spectral_norm_regularization``."""
        value = param_group.setdefault("spectral_norm_regularization", self._spectral_norm_regularization)
        if not 0 <= value < float("inf"):
            raise ValueError(
                f"spectral_norm_regularization={value!r} is not allowed: it must be a finite number, 0 or larger."
            )
        param_group.setdefault("step", 0)
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step. The gradients stay as they are given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        spectral = self._spectral_gradients()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            buffers = [self.state[parameter].get("momentum_buffer") for parameter in parameters]
            # The function, not super().step(), which would call the hooks of step a second time.
            sgd(
                parameters,
                [p.grad + spectral[p] if p in spectral else p.grad for p in parameters],
                buffers,
                foreach=group["foreach"],
                fused=group["fused"],
                weight_decay=group["weight_decay"],
                momentum=group["momentum"],
                lr=group["lr"],
                dampening=group["dampening"],
                nesterov=group["nesterov"],
                maximize=group["maximize"],
            )
            if group["momentum"] != 0:
                for parameter, buffer in zip(parameters, buffers, strict=True):
                    self.state[parameter]["momentum_buffer"] = buffer
        return loss

    def _spectral_gradients(self) -> dict[Tensor, Tensor]:
        """Parameter -> lambda sigma u v^T, in the parameter's shape."""
        members = defaultdict(list)  # (step, rows, columns, dtype, device) -> (parameter, lambda)
        for group in self.param_groups:
            group["step"] += 1
            # Under maximize SGD turns the sign of what it is given; the term is a penalty all the same.
            coefficient = group["spectral_norm_regularization"] * (-1 if group["maximize"] else 1)
            for parameter in group["params"]:
                if coefficient != 0 and parameter.grad is not None and parameter.dim() >= 2:
                    kind = (group["step"], *parameter.flatten(1).shape, parameter.dtype, parameter.device)
                    members[kind].append((parameter, coefficient))
        gradients = {}
        for (step, *_), pairs in members.items():
            parameters, coefficients = zip(*pairs, strict=True)
            u, sigma, v = largest_singular_triplets(torch.stack([p.flatten(1) for p in parameters]), seed=step)
            factors = sigma * sigma.new_tensor(coefficients)
            for parameter, factor, left, right in zip(parameters, factors, u, v, strict=True):
                gradients[parameter] = torch.outer(factor * left, right).view_as(parameter)
        return gradients


@torch.no_grad()
def largest_singular_triplets(
    matrices: Tensor, *, seed: int, iterations: int = POWER_ITERATIONS
) -> tuple[Tensor, Tensor, Tensor]:
    """Approximate u, sigma, v of the largest singular value of each matrix, by power iterations.

    Args:
        matrices: (k, m, n), floating point; half-precision ones are iterated in float32.
        seed: of the random start u ~ N(0, I), one for all matrices.
        iterations: v = W^T u / |W^T u|, then u = W v / |W v|, so many times.

    Returns:
        u (k, m), sigma (k,) and v (k, n), in the matrices' dtype. sigma is u^T W v, never above the true one (to
        rounding); of a zero matrix all three are 0.
    """
    dtype = torch.promote_types(matrices.dtype, torch.float32)
    weights = matrices.to(dtype)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(matrices.shape[1], 1, generator=generator)
    u, v = start.to(weights).expand(len(weights), -1, -1), weights.new_zeros(())
    for _ in range(iterations):
        v = torch.nn.functional.normalize(weights.mT @ u, dim=1)
        u = torch.nn.functional.normalize(weights @ v, dim=1)
    sigma = (u * (weights @ v)).sum((1, 2))
    return u.squeeze(2).to(matrices.dtype), sigma.to(matrices.dtype), v.squeeze(2).to(matrices.dtype)
