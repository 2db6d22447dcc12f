"""The spectra of a model by all processes: who decomposes what, at once or on a copy while training goes on."""

from __future__ import annotations

import time
from itertools import zip_longest
from threading import Thread

import torch
from torch import Tensor, nn

from ..config import TempBalanceConfig
from ..spectra.analysis import (
    Decomposition,
    LayerSpectrum,
    analysed_layers,
    analyze_stacks,
    cost_of,
    gathered,
    in_order,
    spectra_of,
)
from ..spectra.unchanged import Unchanged
from ..spectra.weights import as_stack
from .distributed import exchange, rank_and_size, share_out


def analyze_together(
    model: nn.Module,
    config: TempBalanceConfig | None = None,
    unchanged: Unchanged[LayerSpectrum] | None = None,
    decomposition: Decomposition | None = None,
) -> list[LayerSpectrum]:
    """`analyze` by all processes of the default group, each on its share of the layers; all get the same, to the bit.

    Shares are balanced by the cost of the decompositions. Every process has to call it.

    Args:
        model: what is looked at.
        config: the settings.
        unchanged: results of earlier looks; those that still hold are taken from it, and it is brought up to date.
        decomposition: that of the settings, for who has it already.

    Raises:
        ValueError: as `analyze`.
        RuntimeError: the processes have different models, or one of them failed; raised on all.
    """
    config = config or TempBalanceConfig()
    unchanged = Unchanged() if unchanged is None else unchanged
    job = SpectrumJob(model, config, unchanged, decomposition or Decomposition.of(config))
    job.compute()
    return job.finish()


class SpectrumJob:
    """The spectra of a model's weights, in three parts.

    Construction and `finish` take all processes together, `compute` is this one's alone.

    ``compute`` reads the weights as they are then, and gathers sharded ones with all processes. After `copy` it reads
    the copies, needs nobody, and may run on another thread.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TempBalanceConfig,
        unchanged: Unchanged[LayerSpectrum],
        decomposition: Decomposition,
    ) -> None:
        self.decomposition, self.unchanged = decomposition, unchanged
        self.rank, self.size = rank_and_size()
        self.layers, self.analysed = analysed_layers(model, config)
        known = {i: unchanged.get(self.layers[i].weight) for i in self.analysed}
        self.found = {index: spectrum for index, spectrum in known.items() if spectrum is not None}
        if self.size > 1:  # known on all, or looked at by all
            common = set.intersection(*map(set, exchange(list(self.found))))
            self.found = {index: spectrum for index, spectrum in self.found.items() if index in common}
        todo = [index for index in self.analysed if index not in self.found]
        shares = share_out([cost_of(self.layers[index]) for index in todo], self.size)
        self.owners = dict(zip(todo, shares, strict=True))
        self.mine: dict[int, LayerSpectrum] = {}
        self.failure: Exception | None = None
        self._copies: dict[int, Tensor] | None = None

    def copy(self) -> None:
        """Copy this process's share of the weights, in their own precision and on their own device."""
        copies: dict[int, Tensor] = {}

        def keep(index: int, whole: Tensor) -> None:
            try:
                copies[index] = as_stack(whole, self.layers[index].kind).clone()
            except RuntimeError as error:  # no memory: the others hear of it in `finish`
                self.failure = error

        for index, owner in self.owners.items():
            if owner == self.rank and not self.layers[index].weight.is_sharded:
                keep(index, self.layers[index].weight.whole())
        for index, whole in gathered(self.layers, self.owners, self.rank):
            keep(index, whole)
        self._copies = copies

    def compute(self) -> None:
        """Decompose and fit this process's share; what goes wrong is kept for `finish`, since others wait there."""
        if self.failure is not None:
            return
        try:
            if self._copies is None:
                self.mine = spectra_of(self.layers, self.owners, self.rank, self.decomposition)
            else:
                found = analyze_stacks(self.layers, self._copies, self.decomposition)
                self.mine = {index: spectrum for index, (spectrum, _) in found.items()}
        except Exception as error:  # noqa: BLE001
            self.failure = error
        self._copies = None

    def finish(self) -> list[LayerSpectrum]:
        """Exchange the shares: a spectrum for every layer. Raises as `analyze_together`."""
        if self.size == 1:
            if self.failure is not None:
                raise self.failure
            self.found |= self.mine
        else:
            self._exchange()
        self.unchanged.keep((self.layers[index].weight, self.found[index]) for index in self.analysed)
        return in_order(self.layers, self.found)

    def _exchange(self) -> None:
        failure = None if self.failure is None else f"{type(self.failure).__name__}: {self.failure}"
        described = [(layer.name, layer.shape, layer.excluded_by) for layer in self.layers]
        parts = exchange((failure, described, self.mine))
        for other, (failed, theirs, found) in enumerate(parts):
            if failed is not None:
                raise RuntimeError(f"Rank {other} failed while it looked at the weights: {failed}")
            for one, another in zip_longest(parts[0][1], theirs):
                if one != another:
                    raise RuntimeError(f"Ranks 0 and {other} have different models: {one} and {another}.")
            self.found |= found


class BackgroundJob:
    """A job on copies of the weights, computed by a thread; on an accelerator, on a stream of its own."""

    def __init__(self, job: SpectrumJob) -> None:
        job.copy()
        self._job = job
        self.seconds = 0.0  # of the computation
        device = next((layer.weight.tensor.device for layer in job.layers if layer.is_analysed), torch.device("cpu"))
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(device))  # the copies have to be there
        self._thread = Thread(target=self._run, name="tempbalance-spectra")
        self._thread.start()

    def wait(self) -> float:
        """Wait until the computation has ended; returns the seconds that this took."""
        start = time.perf_counter()
        self._thread.join()
        return time.perf_counter() - start

    def finish(self) -> list[LayerSpectrum]:
        """The result, after `wait`. Raises as `analyze_together`."""
        return self._job.finish()

    def _run(self) -> None:
        torch.set_num_threads(1)  # this thread's: the cores are the training's
        start = time.perf_counter()
        if self._stream is None:
            self._job.compute()
        else:
            with torch.cuda.stream(self._stream):
                self._job.compute()
        self.seconds = time.perf_counter() - start
