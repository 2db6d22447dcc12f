"""Optimizers by name, for command lines: ours, timm's Lookahead around SGD, and every other of timm."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any

import torch

from .sgd_snr import SGDSNR


def optimizer_class(name: str) -> Callable[..., torch.optim.Optimizer]:
    """A class to call with parameters (or groups of them) and the optimizer's own arguments.

    Args:
        name: "sgd_snr" (`SGDSNR`), "lookahead_sgd" (timm's Lookahead around torch's SGD), or a name of
            ``timm.optim.list_optimizers()`` such as lars, lamb, sgdp, adamp, adam. Arguments have the class's own
            defaults, not those of timm's factory.

    Raises:
        ValueError: there is no such optimizer; the message has the nearest name.
    """
    import timm.optim

    ours: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd_snr": SGDSNR, "lookahead_sgd": _lookahead_sgd()}
    if name in ours:
        return ours[name]
    known = [str(known) for known in timm.optim.list_optimizers()]  # pairs only where descriptions are asked for
    if name not in known:
        near = difflib.get_close_matches(name, [*ours, *known], n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Allowed are: {', '.join([*ours, *known])}."
        raise ValueError(f"optimizer={name!r} does not exist. {hint}")
    return timm.optim.get_optimizer_class(name, bind_defaults=False)


def _lookahead_sgd() -> type[torch.optim.Optimizer]:
    from timm.optim import Lookahead

    class LookaheadSGD(Lookahead):
        """Lookahead that makes its SGD itself, since Trainer wants a class that takes parameter groups."""

        def __init__(
            self,
            params: Iterable[Any],
            lr: float,
            momentum: float = 0.9,
            weight_decay: float = 0.0,
            k: int = 5,
            alpha: float = 0.5,
        ) -> None:
            sgd = torch.optim.SGD(params, lr=lr, momentum=momentum, weight_decay=weight_decay)
            super().__init__(sgd, alpha=alpha, k=k)

    return LookaheadSGD
