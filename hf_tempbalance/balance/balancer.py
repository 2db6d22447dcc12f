"""`TempBalancer`: looks at the weights and gives each layer its learning rate, in any PyTorch loop."""

from __future__ import annotations

import math
import time
import warnings
import weakref
from collections import deque
from typing import Any

import torch
from torch import Tensor, nn

from ..config import TempBalanceConfig
from ..spectra.analysis import LayerSpectrum
from ..spectra.layers import unwrap
from ..spectra.unchanged import Unchanged
from ..spectra.weights import clean_name
from .assignment import assign_parameters
from .controls import check_control
from .distributed import from_first_rank, rank_and_size
from .look import Look, PendingLook
from .method import Method, multipliers_of
from .optimizer_check import check_optimizer
from .optimizer_kinds import is_accumulating
from .ramp import Ramp
from .spectrum_job import BackgroundJob, SpectrumJob, analyze_together
from .stored import Stored
from .virtual_groups import Factors, VirtualGroups


class NoEffectWarning(UserWarning):
    """Nothing changes: all tuned layers have the same multiplier 1, or what is multiplied is 0."""


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
        self.method = Method.of(self.config)
        self.model = unwrap(model)
        self.optimizer = optimizer
        self.layers, self._layer_of = assign_parameters(self.model, self.config)
        self._check_optimizer()
        self._warn_of_no_decay()
        self._multipliers = {layer.name: 1.0 for layer in self.layers if layer.is_tuned}
        check_control(self.config.control, [self.method.unit(name) for name in self._multipliers])
        self._has_looked = False
        self._ramp: Ramp | None = None
        # By name as well: between forward and backward FSDP shows other tensors under the same names.
        self._layer_of_name = self._names()
        self._unchanged: Unchanged[LayerSpectrum] = Unchanged()
        self._pending: PendingLook | None = None
        self._finished: deque[Look] = deque(maxlen=2)  # nobody has to take them
        self.steps = 0  # of the optimizer, since construction
        self._owner: weakref.ref[Any] | None = None
        self._groups = VirtualGroups(
            optimizer, self._layer_of_parameter, self._factors_of, self._before_step, self._takes_part
        )

    def rebalance(self, *, step: int | None = None, epoch: float = 0.0) -> list[LayerSpectrum]:
        """Look at the weights now and set the multipliers; they hold until the next look.

        A layer whose score is NaN or infinite, or not in the domain of the mapping, gets the multiplier 1 and a
        warning that names it; it changes no other layer's. Where all scores are equal every multiplier is 1.

        Args:
            step, epoch: optimizer steps and epochs made so far, for the record; by default the steps of this object.

        Returns:
            What `analyze` returns.

        Raises:
            ValueError: a tuned layer was replaced by one whose parameters the optimizer does not hold.
        """
        start = time.perf_counter()
        self._end_pending()
        self._assign_again()
        spectra = analyze_together(self.model, self.config, self._unchanged, self.method)
        multipliers = self._multipliers_of(spectra)
        seconds = time.perf_counter() - start
        step = self.steps if step is None else step
        look = Look(
            step=step,
            epoch=epoch,
            spectra=spectra,
            multipliers=multipliers,
            multiplier_mean=self._mean(multipliers),
            seconds=seconds,
            waited=seconds,
            in_force=step,
        )
        self._put_in_force(look)
        return spectra

    def begin_look(self, *, step: int | None = None, epoch: float = 0.0) -> None:
        """Copy the weights and look at the copy on a thread, while training goes on.

        ``overlap_steps`` calls of ``optimizer.step()`` later, on every process at the same one, the multipliers come
        into force; `take_looks` then has the record. A look that was begun before comes into force now.

        Args:
            step, epoch: as for `rebalance`.
        """
        start = time.perf_counter()
        self._end_pending()
        self._assign_again()
        job = BackgroundJob(SpectrumJob(self.model, self.config, self._unchanged, self.method))
        step = self.steps if step is None else step
        waited = time.perf_counter() - start
        self._pending = PendingLook(step, epoch, self.config.overlap_steps, job, waited)

    def wait(self) -> None:
        """Wait until the look that goes on, if any, has its result. Every process has to call it.

        `state_dict` has that look only then.
        """
        if self._pending is not None:
            self._pending.wait(self._multipliers_of)

    def end(self) -> None:
        """Wait for the look that goes on and record it, though it comes into force for no step any more."""
        self.wait()
        if self._pending is not None:
            self._finished.append(self._pending.record(self._mean(self._pending.multipliers), is_in_force=False))
            self._pending = None

    def take_looks(self) -> list[Look]:
        """The records of the looks that have come into force since the last call, oldest first; two at most."""
        looks = list(self._finished)
        self._finished.clear()
        return looks

    @property
    def lr_multipliers(self) -> dict[str, float]:
        """Parameter name -> multiplier, for every parameter of the model; 1.0 where it is not tuned."""
        return self._factors("lr")

    @property
    def weight_decay_multipliers(self) -> dict[str, float]:
        """Parameter name -> multiplier of its weight decay, for every parameter; 1.0 where it is not tuned."""
        return self._factors("weight_decay")

    @property
    def layer_multipliers(self) -> dict[str, float]:
        """Name of a tuned layer -> multiplier of its parameters and of the norm that follows it, at the next step."""
        return dict(self._multipliers)

    @property
    def goal_multipliers(self) -> dict[str, float]:
        """What the last look has set; `layer_multipliers` gets there over ``ramp_steps``."""
        return dict(self._multipliers if self._ramp is None else self._ramp.after)

    @property
    def multiplier_mean(self) -> float:
        """Mean of `goal_multipliers` over the parameters that are tuned, each weighted by its number of elements."""
        return self._mean(self.goal_multipliers)

    @property
    def pending_step(self) -> int | None:
        """Step at which the look was begun that is not in force yet; None without one."""
        return None if self._pending is None else self._pending.step

    @property
    def is_looking(self) -> bool:
        """Whether a look goes on beside training, so that `state_dict` lacks it."""
        return self._pending is not None and self._pending.job is not None

    def state_dict(self) -> dict[str, Any]:
        """The multipliers, in JSON types, and the look that is not in force yet, if its result is known (`wait`)."""
        state: dict[str, Any] = {"version": 2, "multipliers": dict(self._multipliers)}
        if self._ramp is not None:
            state["ramp"] = self._ramp.to_dict()
        if self._pending is not None and not self.is_looking:
            state["pending"] = self._pending.to_dict()
        return state

    def load_state_dict(self, state: dict[str, Any], *, where: str = "TempBalancer state") -> None:
        """The inverse of `state_dict`; the multipliers are in force from the next step.

        Args:
            where: file and place of the state, for the messages.

        Raises:
            ValueError: the state is damaged, comes from a newer version or belongs to other layers; the message names
                the field or the layers.
        """
        stored = Stored(state, where)
        version = stored.whole("version")
        if version not in (1, 2):
            raise ValueError(f"{where} has version {version}; this package reads versions 1 and 2.")
        multipliers = stored.object("multipliers").amounts()
        known = set(self._layer_of.values())
        differing = sorted((multipliers.keys() - known) | (self._multipliers.keys() - multipliers.keys()))
        if differing:
            raise ValueError(
                f"{where} and model do not tune the same layers; only one of them tunes {', '.join(differing)}. "
                "Load it into the same model with the same exclusion settings."
            )
        pending = PendingLook.from_stored(stored.object("pending"), version) if "pending" in stored else None
        ramp = Ramp.from_stored(stored.object("ramp")) if "ramp" in stored else None
        self._discard_pending()
        self._pending, self._ramp, self._has_looked = pending, ramp, True
        self._set(multipliers)

    def take_part_while(self, owner: Any) -> None:
        """Lose all effect as soon as ``owner`` is gone, as a Trainer's state is when a new training starts."""
        self._owner = weakref.ref(owner)

    def detach(self) -> None:
        """Take the balancer off the optimizer: from now on every parameter is stepped with the schedule's rate."""
        self._discard_pending()
        self._groups.detach()

    def _takes_part(self) -> bool:
        return self._owner is None or self._owner() is not None

    def _before_step(self) -> None:
        if is_accumulating(self.optimizer):
            return
        if self._pending is not None:
            if self._pending.steps_left == 0:
                self._end_pending()
            else:
                self._pending.count_step()
        if self._ramp is not None:
            self._set(self._ramp.count_step())
            self._ramp = None if self._ramp.is_over else self._ramp
        self.steps += 1

    def _end_pending(self) -> None:
        """Bring the look into force that is not yet, if there is one."""
        self.wait()
        if self._pending is not None:
            look = self._pending.record(self._mean(self._pending.multipliers), is_in_force=True)
            self._pending = None
            self._put_in_force(look)

    def _put_in_force(self, look: Look) -> None:
        self._finished.append(look)
        self._has_looked = True
        if self.config.ramp_steps:
            self._ramp = Ramp(self._multipliers, look.multipliers, self.config.ramp_steps)
        else:
            self._set(look.multipliers)

    def _set(self, multipliers: dict[str, float]) -> None:
        self._multipliers = multipliers
        # For those who read layer-wise groups; the multiplier is applied inside step.
        for group in self.optimizer.param_groups:
            if "lr_multiplier" in group:
                group["lr_multiplier"] = self._factors_of(group["layer"]).get("lr", 1.0)

    def _discard_pending(self) -> None:
        if self._pending is not None and self._pending.job is not None:
            self._pending.job.wait()
        self._pending = None

    def _assign_again(self) -> None:
        """Follow layers that were put in, taken out or replaced since the last look."""
        self.layers, layer_of = assign_parameters(self.model, self.config)
        is_sharded = any(layer.weight.is_sharded for layer in self.layers)
        if layer_of == self._layer_of or is_sharded:  # FSDP shows other tensors of the same layers for a while
            return
        new = sorted({layer for parameter, layer in layer_of.items() if parameter not in self._layer_of})
        self._layer_of = layer_of
        try:
            self._check_optimizer()
        except ValueError as error:
            raise ValueError(
                f"Layers were put in or replaced during training ({', '.join(new)}), and the optimizer does not hold "
                "their parameters. Replace layers before training, or add the new parameters to the optimizer."
            ) from error
        self._layer_of_name = self._names()
        self._groups.forget()

    def _check_optimizer(self) -> None:
        trained = [p for p in self.model.parameters() if id(p) in self._layer_of and p.requires_grad]
        check_optimizer(self.optimizer, trained, keys=self.method.target(1.0))

    def _warn_of_no_decay(self) -> None:
        if "lr" in self.method.target(1.0) or rank_and_size()[0] != 0:
            return
        if not any(group["weight_decay"] for group in self.optimizer.param_groups):
            warnings.warn(
                "target='weight_decay' multiplies the weight decay, and that is 0 in every group of the optimizer, so "
                "nothing changes. Set weight_decay in the training arguments or the optimizer.",
                NoEffectWarning,
                stacklevel=3,
            )

    def _names(self) -> dict[str, str | None]:
        """Parameter name -> layer, for every parameter."""
        return {clean_name(name): self._layer_of_parameter(p) for name, p in self.model.named_parameters()}

    def _layer_of_parameter(self, parameter: Tensor) -> str | None:
        return self._layer_of.get(id(parameter))

    def _factors(self, key: str) -> dict[str, float]:
        return {name: self._factors_of(layer).get(key, 1.0) for name, layer in self._layer_of_name.items()}

    def _factors_of(self, layer: str | None) -> Factors:
        # 1.0 also for a layer that has been frozen since.
        return self.method.target(1.0 if layer is None else self._multipliers.get(layer, 1.0))

    def _multipliers_of(self, spectra: list[LayerSpectrum]) -> dict[str, float]:
        if self.config.control == "frozen" and self._has_looked:
            return self.goal_multipliers
        multipliers = multipliers_of(spectra, self.method)
        # Equal scores could still be mapped to different last bits by different processors.
        multipliers = dict(from_first_rank(multipliers))
        if rank_and_size()[0] == 0:
            self._warn([spectrum for spectrum in spectra if spectrum.is_tuned], multipliers)
        return multipliers

    def _mean(self, multipliers: dict[str, float]) -> float:
        elements: dict[str, int] = {}
        for parameter in self.model.parameters():
            layer = self._layer_of.get(id(parameter))
            if layer in multipliers:
                elements[layer] = elements.get(layer, 0) + getattr(parameter, "ds_numel", parameter.numel())
        total = sum(elements.values())
        return math.fsum(multipliers[layer] * count for layer, count in elements.items()) / total if total else 1.0

    def _warn(self, tuned: list[LayerSpectrum], multipliers: dict[str, float]) -> None:
        tuned = [spectrum for spectrum in tuned if not spectrum.is_pinned]
        scores = [self.method.score(spectrum) for spectrum in tuned]
        for spectrum, score, is_used in zip(tuned, scores, self.method.is_usable(scores), strict=True):
            if not is_used:
                cause = "" if math.isfinite(score) else " (NaN, infinite, zero or low-rank weights)"
                warnings.warn(
                    f"{spectrum.name}: {self.config.metric} is {score}{cause}, which mapping={self.config.mapping!r} "
                    "can't use. This layer keeps the schedule's rate until the next look.",
                    stacklevel=4,
                )
        if len(set(multipliers.values())) == 1 and len(set(scores)) == 1:
            warnings.warn(
                f"{len(scores)} tuned layers have the same {self.config.metric}={scores[0]}: every multiplier is 1 "
                "and this look changes nothing.",
                NoEffectWarning,
                stacklevel=4,
            )
