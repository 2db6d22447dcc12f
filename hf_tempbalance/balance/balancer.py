"""`TempBalancer`: looks at the weights and gives each layer its learning rate, in any PyTorch loop."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ..config import TempBalanceConfig
from ..spectra.analysis import LayerSpectrum, layer_options
from ..spectra.layers import Layer, describe, find_followers, find_layers, unwrap
from ..spectra.unchanged import Unchanged
from ..spectra.weights import clean_name
from .distributed import from_first_rank, rank_and_size
from .mapping import is_usable, map_scores
from .spectrum_job import BackgroundLook, Look, OverlappedLook, analyze_together
from .virtual_groups import VirtualGroups, check_optimizer


class NoEffectWarning(UserWarning):
    """A look changed nothing: all tuned layers have the same multiplier 1."""


class TempBalancer:
    """Gives each layer of a model its own learning rate, from the heavy tail of its weight spectrum.

    Every parameter has a multiplier, 1 until the first `rebalance`. It is applied inside ``optimizer.step()`` alone,
    as ``group["lr"] * multiplier``: whatever a schedule writes into ``group["lr"]`` stays the schedule's, and
    checkpoints of the optimizer are those of plain training.

    Args:
        model: the model that is trained; DataParallel, DistributedDataParallel and compiled wrappers are seen through.
        optimizer: its optimizer, plain or prepared by Accelerate. Attached to on construction.
        config: the settings; the paper's where it is None.

    Raises:
        ValueError: no layer can be tuned (the message lists each and its rule), or rates per layer can't be applied
            through this optimizer.
        RuntimeError: the optimizer is balanced already.

    Example:
        >>> model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> balancer = TempBalancer(model, optimizer)
        >>> spectra = balancer.rebalance()  # once before training, then after every epoch
        >>> sorted(set(balancer.lr_multipliers.values()))
        [0.5, 1.0, 1.5]
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, config: TempBalanceConfig | None = None
    ) -> None:
        self.config = config or TempBalanceConfig()
        self.model = unwrap(model)
        self.layers, self._layer_of = assign_parameters(self.model, self.config)
        self._multipliers = {layer.name: 1.0 for layer in self.layers if layer.excluded_by is None}
        # By name as well: between forward and backward FSDP shows other tensors under the same names.
        self._layer_of_name = {
            clean_name(name): self._layer_of_parameter(parameter) for name, parameter in self.model.named_parameters()
        }
        trained = [p for p in self.model.parameters() if id(p) in self._layer_of and p.requires_grad]
        check_optimizer(optimizer, trained)
        self.optimizer = optimizer
        self._unchanged: Unchanged[LayerSpectrum] = Unchanged()
        self._has_looked = False
        self.pending: OverlappedLook | None = None  # begun, and not in force yet
        self.overlapped: OverlappedLook | None = None  # the last one that came into force
        self._groups = VirtualGroups(optimizer, self._layer_of_parameter, self._multiplier_of, self._before_step)

    def rebalance(self) -> list[LayerSpectrum] | None:
        """Look at the weights now and set the multipliers; they hold until the next call.

        A layer whose score is NaN or infinite, or not in the domain of the mapping, gets the multiplier 1 and a
        warning that names it; it changes no other layer's. Where all scores are equal every multiplier is 1.

        With ``overlap`` the first call does that. Later ones copy the weights and return; a thread looks at the copy
        while training goes on, and `overlap_steps` calls of ``optimizer.step()`` later, on every process at the same
        one, the multipliers come into force. Then the look is in `overlapped`.

        Returns:
            What `analyze` returns; None where the look goes on.
        """
        self.settle_overlapped()
        if self.pending is not None:
            self._bring_into_force()
        if self.config.overlap and self._has_looked:
            look = Look(self.model, self.config, self._unchanged)
            self.pending = OverlappedLook(self.config.overlap_steps, BackgroundLook(look))
            return None
        spectra = analyze_together(self.model, self.config, self._unchanged)
        self._set(self._multipliers_of(spectra))
        return spectra

    def settle_overlapped(self) -> None:
        """Wait for the look that goes on, if one does: its multipliers are known, and in force when they are due.

        Every process has to call it.
        """
        if self.pending is not None and self.pending.background is not None:
            background, self.pending.background = self.pending.background, None
            self.pending.waited += background.wait()
            self.pending.seconds = background.seconds
            self.pending.spectra = background.look.finish()
            self.pending.multipliers = self._multipliers_of(self.pending.spectra)

    def _before_step(self) -> None:
        # Accelerate's step does nothing while gradients are accumulated.
        gradients = getattr(self.optimizer, "gradient_state", None)
        is_step = gradients is None or gradients.sync_gradients
        if is_step and self.pending is not None:
            if self.pending.steps_left == 0:
                self.settle_overlapped()
                self._bring_into_force()
            else:
                self.pending.steps_left -= 1

    def _bring_into_force(self) -> None:
        self.overlapped, self.pending = self.pending, None
        self._set(self.overlapped.multipliers)

    def _set(self, multipliers: dict[str, float]) -> None:
        self._multipliers = multipliers
        self._has_looked = True
        self._write_into_groups()

    def _multipliers_of(self, spectra: list[LayerSpectrum]) -> dict[str, float]:
        tuned = [spectrum for spectrum in spectra if spectrum.excluded_by is None]
        scores = [getattr(spectrum, self.config.metric) for spectrum in tuned]
        multipliers = map_scores(
            scores,
            self.config.mapping,
            lr_min_ratio=self.config.lr_min_ratio,
            lr_max_ratio=self.config.lr_max_ratio,
        )
        # Equal scores could still be mapped to different last bits by different processors.
        multipliers = from_first_rank(multipliers)
        if rank_and_size()[0] == 0:
            self._warn(tuned, scores, multipliers)
        return {spectrum.name: value for spectrum, value in zip(tuned, multipliers, strict=True)}

    @property
    def lr_multipliers(self) -> dict[str, float]:
        """Parameter name -> multiplier, for every parameter of the model; 1.0 where it is not tuned."""
        return {name: self._multiplier_of(layer) for name, layer in self._layer_of_name.items()}

    @property
    def layer_multipliers(self) -> dict[str, float]:
        """Name of a tuned layer -> multiplier of its parameters and of the norm that follows it."""
        return dict(self._multipliers)

    def state_dict(self) -> dict[str, Any]:
        """The multipliers, in JSON types, and with ``overlap`` the look that is not in force yet.

        That look is waited for, so that a resumed run has its result: then every process has to call this.
        """
        self.settle_overlapped()
        state = {"version": 1, "multipliers": dict(self._multipliers)}
        return state if self.pending is None else state | {"pending": self.pending.to_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`; the multipliers are in force from the next step.

        Raises:
            ValueError: the state comes from a newer version or belongs to other layers; the message names them.
        """
        if state.get("version") != 1:
            raise ValueError(f"TempBalancer state has version {state.get('version')!r}; this package reads version 1.")
        for name, value in state["multipliers"].items():
            if type(value) not in (int, float) or not 0 <= value < math.inf:
                raise ValueError(
                    f"TempBalancer state: the multiplier of {name} is {value!r} and should be a finite number of 0 or "
                    "more. The state is damaged; load another one."
                )
        known, stored = set(self._layer_of.values()), state["multipliers"].keys()
        differing = sorted((stored - known) | (self._multipliers.keys() - stored))
        if differing:
            raise ValueError(
                f"TempBalancer state and model do not tune the same layers; only one of them tunes {differing}. "
                "Load it into the same model with the same exclusion settings."
            )
        self._discard_pending()
        if "pending" in state:
            self.pending = OverlappedLook.from_dict(state["pending"])
        self._set(dict(state["multipliers"]))

    def detach(self) -> None:
        """Take the balancer off the optimizer: from now on every parameter is stepped with the schedule's rate."""
        self._discard_pending()
        self._groups.detach()

    def _discard_pending(self) -> None:
        if self.pending is not None and self.pending.background is not None:
            self.pending.background.wait()
        self.pending = None

    def _layer_of_parameter(self, parameter: Tensor) -> str | None:
        return self._layer_of.get(id(parameter))

    def _multiplier_of(self, layer: str | None) -> float:
        return self._multipliers.get(layer, 1.0)  # also of a layer that has been frozen since

    def _write_into_groups(self) -> None:
        """Show the multiplier in layer-wise groups, for those who read them; it is applied inside step."""
        for group in self.optimizer.param_groups:
            if "lr_multiplier" in group:
                group["lr_multiplier"] = self._multiplier_of(group["layer"])

    def _warn(self, tuned: list[LayerSpectrum], scores: list[float], multipliers: list[float]) -> None:
        usable = is_usable(scores, self.config.mapping)
        for spectrum, score, counts in zip(tuned, scores, usable, strict=True):
            if not counts:
                cause = "" if math.isfinite(score) else " (NaN, infinite, zero or low-rank weights)"
                warnings.warn(
                    f"{spectrum.name}: {self.config.metric} is {score}{cause}, which mapping={self.config.mapping!r} "
                    "can't use. This layer keeps the schedule's rate until the next look.",
                    stacklevel=4,
                )
        if len(set(multipliers)) == 1 and len(set(scores)) == 1:
            warnings.warn(
                f"{len(scores)} tuned layers have the same {self.config.metric}={scores[0]}: every multiplier is 1 "
                "and this look changes nothing.",
                NoEffectWarning,
                stacklevel=4,
            )


def assign_parameters(model: nn.Module, config: TempBalanceConfig) -> tuple[list[Layer], dict[int, str]]:
    """All layers, and id of each parameter that can be tuned -> name of the layer whose multiplier it takes.

    Depends on the architecture alone: parameters of frozen layers are in it, so that these can be set free in the
    middle of training, and others frozen.

    A layer's own weight and bias belong to it, and those of the norm that follows it; a parameter used twice belongs
    to the layer that is met first.

    Raises:
        ValueError: no layer is tuned.
    """
    layers = find_layers(model, **layer_options(config))
    tuned = {layer.name: layer for layer in layers if layer.excluded_by in (None, "frozen")}
    if all(layer.excluded_by == "frozen" for layer in tuned.values()):
        raise ValueError(f"There is nothing to balance: {describe(model, layers)}")
    owner: dict[int, str] = {}
    followers = find_followers(model, layers, batchnorm=config.batchnorm, layernorm=config.layernorm)
    for name, layer in tuned.items():
        for parameter in layer.weight.parameters:
            owner.setdefault(id(parameter), name)
    for name, module in model.named_modules():
        layer_name = followers.get(clean_name(name))
        if layer_name in tuned:
            for parameter in module.parameters():
                owner.setdefault(id(parameter), layer_name)
    return layers, owner
