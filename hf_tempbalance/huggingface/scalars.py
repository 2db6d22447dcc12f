"""The numbers that a look gives to the trackers: few enough for a dashboard, however many layers there are."""

from __future__ import annotations

import itertools
import math
import re
from typing import Literal

import numpy as np

from ..balance.look import Look
from ..runs.roles import ROLES, role_of, short_names, split_name
from ..spectra.analysis import LayerSpectrum


LogLayers = Literal["parts", "all"]
# The layer is the last part of a key and short: trackers put "train/" before it and cut what is too long for a card.
LAYER_KEYS = ("tb_alpha/", "tb_multiplier/")
FEWEST_PARTS, MOST_PARTS = 4, 16
MOST_LETTERS = 60
BLOCK_LABEL = re.compile(r"(?:.*\.)?L\d+(?:\.\d+)?(?=\.)")
ROLE_LABELS = {role: role.replace("attention ", "attn.").replace("MLP ", "mlp.") for role in ROLES}


def summary(look: Look) -> dict[str, float]:
    """Mean, deviation and range of the tuned layers' alpha, mean and range of their multipliers, time of the look."""
    alphas = [s.alpha for s in look.spectra if s.is_tuned and math.isfinite(s.alpha)]
    scalars = {
        "multiplier_mean": look.multiplier_mean,
        "multiplier_min": min(look.multipliers.values()),
        "multiplier_max": max(look.multipliers.values()),
        "seconds": look.seconds,
    }
    if look.in_force != look.step:  # it went on beside training
        scalars["waited"] = look.waited
    if alphas:
        scalars |= {
            "alpha_mean": float(np.mean(alphas)),
            "alpha_min": min(alphas),
            "alpha_max": max(alphas),
            "alpha_std": float(np.std(alphas)),
        }
    return {f"tempbalance/{key}": value for key, value in sorted(scalars.items())}


def per_layer(spectra: list[LayerSpectrum], multipliers: dict[str, float], which: LogLayers) -> dict[str, float]:
    """alpha and multiplier of each tuned layer ("all"), or their means over the parts of the network ("parts").

    The keys are ``tb_alpha/PART`` and ``tb_multiplier/PART``, with the labels of `labels_of`. A part without a finite
    alpha has no alpha here.
    """
    by_name = {spectrum.name: spectrum for spectrum in spectra}
    numbers: dict[str, float] = {}
    for label, names in labels_of(spectra, which).items():
        alphas = [by_name[name].alpha for name in names if math.isfinite(by_name[name].alpha)]
        if alphas:
            numbers[f"{LAYER_KEYS[0]}{label}"] = float(np.mean(alphas))
        numbers[f"{LAYER_KEYS[1]}{label}"] = float(np.mean([multipliers.get(name, 1.0) for name in names]))
    return numbers


def labels_of(spectra: list[LayerSpectrum], which: LogLayers) -> dict[str, list[str]]:
    """Label of a part -> names of the tuned layers in it, in order; no two parts have one label.

    "all" has a part for each layer: "L00.attn.q". "parts" has, where there is attention, the blocks ("L00") and the
    roles in them ("attn.q"), so that each layer in a block is in two parts, and what is outside of blocks; elsewhere
    the stages ("L1"). More than 16 blocks or stages, and more than 4 layers outside, are joined with their neighbours.
    """
    short = short_names([(spectrum.name, spectrum.kind) for spectrum in spectra])
    tuned = [spectrum for spectrum in spectra if spectrum.is_tuned]
    if which == "all":
        return _labelled([(short[spectrum.name], [spectrum.name]) for spectrum in tuned])
    roles = {s.name: role_of(s.name, s.kind) for s in tuned if split_name(s.name)[0]}
    if not any(role.startswith("attention") for role in roles.values()):
        part_of = parts([short[spectrum.name] for spectrum in tuned])
        return _labelled(_collected([(part_of[short[spectrum.name]], spectrum.name) for spectrum in tuned]))
    blocks = _collected([(block, s.name) for s in tuned if (block := split_name(s.name)[0])])
    outside = _collected([(short[s.name], s.name) for s in tuned if not split_name(s.name)[0]])
    blocks = [(_block_label(short[names[0]]), names) for _, names in blocks]
    found = [*_joined(blocks, MOST_PARTS), *_joined(outside, FEWEST_PARTS)]
    by_role = _collected([(ROLE_LABELS.get(role, role), name) for name, role in roles.items()])
    return _labelled([*found, *by_role])


def parts(names: list[str]) -> dict[str, str]:
    """Divide layers, in order, into at most 16 parts by their names, as the stages of a ResNet.

    The names are cut at the first dot that leaves 4 parts or more; more than 16 are joined with their neighbours.

    Returns:
        Layer -> name of its part, such as "L1" or, of joined ones, "features.0-features.3".

    >>> parts(["L1.0.conv1", "L1.0.conv2", "L2.0.conv1", "L3.0.conv1", "L4.0.conv1"])
    {'L1.0.conv1': 'L1', 'L1.0.conv2': 'L1', 'L2.0.conv1': 'L2', ...}
    """
    depth = 1
    deepest = max((name.count(".") + 1 for name in names), default=1)
    while depth < deepest and len({_cut(name, depth) for name in names}) < FEWEST_PARTS:
        depth += 1
    prefixes = list(dict.fromkeys(_cut(name, depth) for name in names))
    joined = _joined([(prefix, [prefix]) for prefix in prefixes], MOST_PARTS)
    part_of_prefix = {prefix: label for label, members in joined for prefix in members}
    return {name: part_of_prefix[_cut(name, depth)] for name in names}


def _joined(groups: list[tuple[str, list[str]]], most: int) -> list[tuple[str, list[str]]]:
    """Neighbours together, so that there are at most so many; their label is "first-last"."""
    size = math.ceil(len(groups) / most) or 1
    parts = [groups[start : start + size] for start in range(0, len(groups), size)]
    return [
        ("-".join(dict.fromkeys([part[0][0], part[-1][0]])), [name for _, names in part for name in names])
        for part in parts
    ]


def _cut(name: str, depth: int) -> str:
    return ".".join(name.split(".")[:depth])


def _block_label(short: str) -> str:
    """The block in a layer's short name: "L03" of "L03.attn.q"."""
    found = BLOCK_LABEL.match(short)
    return found[0] if found else short


def _collected(pairs: list[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """(label, layer) -> (label, all of its layers)."""
    found: dict[str, list[str]] = {}
    for label, name in pairs:
        found.setdefault(label, []).append(name)
    return list(found.items())


def _labelled(groups: list[tuple[str, list[str]]]) -> dict[str, list[str]]:
    """Labels that every tracker takes, cuts nowhere and sorts by the numbers in them.

    TensorBoard writes "_" for most characters that are not letters or digits, so that two labels could become one.
    """
    found: dict[str, list[str]] = {}
    for text, (_, names) in zip(_padded([text for text, _ in groups]), groups, strict=True):
        label = re.sub(r"[^\w.-]", "_", text)
        if len(label) > MOST_LETTERS:
            label = f"{label[: MOST_LETTERS // 2]}..{label[-MOST_LETTERS // 2 :]}"
        numbered = itertools.chain([label], (f"{label}-{number}" for number in itertools.count(2)))
        found[next(text for text in numbered if text not in found)] = names
    return found


def _padded(labels: list[str]) -> list[str]:
    """Zeros before the numbers of labels that differ in their numbers alone: "conv_02", "conv_10"."""
    widths: dict[str, list[int]] = {}
    split = [re.split(r"(\d+)", label) for label in labels]  # text, digits, text, ...
    for pieces in split:
        numbers = [len(digits) for digits in pieces[1::2]]
        widest = widths.setdefault("#".join(pieces[::2]), numbers)
        widest[:] = map(max, widest, numbers)
    for pieces in split:
        widest = widths["#".join(pieces[::2])]
        pieces[1::2] = [digits.zfill(width) for digits, width in zip(pieces[1::2], widest, strict=True)]
    return ["".join(pieces) for pieces in split]
