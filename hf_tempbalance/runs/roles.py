"""What a layer does and where it stands, by its name: attention q of block 3. For pictures, pages and trackers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, get_args


Role = Literal[
    "embedding",
    "attention q",
    "attention k",
    "attention v",
    "attention qkv",  # two or three of them in one weight
    "attention o",
    "MLP up",  # and the gate beside it
    "MLP down",
    "convolution",
    "shortcut",
    "head",
    "other",
]
ROLES: tuple[Role, ...] = get_args(Role)

# The names that weights of a role have inside of attention and of an MLP, in lower case.
_ATTENTION: dict[Role, str] = {
    "attention q": "q query q_proj q_lin query_proj wq to_q q_a_proj q_b_proj",
    "attention k": "k key k_proj k_lin key_proj wk to_k",
    "attention v": "v value v_proj v_lin value_proj wv to_v",
    "attention qkv": "qkv kv qk qkv_proj kv_proj to_qkv to_kv wqkv c_attn query_key_value "
    "kv_a_proj_with_mqa kv_b_proj",
    "attention o": "o o_proj out_proj out_lin proj c_proj wo dense to_out",
}
_MLP: dict[Role, str] = {
    "MLP up": "fc1 lin1 linear1 c_fc fc_in wi wi_0 wi_1 w1 w3 pwconv1 up_proj gate_proj gate_up_proj fc1_g fc1_x "
    "dense_h_to_4h",
    "MLP down": "fc2 lin2 linear2 c_proj fc_out wo w2 pwconv2 down_proj dense_4h_to_h ffn_output",
}
_ROLE_IN_ATTENTION = {name: role for role, names in _ATTENTION.items() for name in names.split()}
_ROLE_IN_MLP = {name: role for role, names in _MLP.items() for name in names.split()}
_GATES = ("gate_proj", "wi_0", "w1", "fc1_g")  # beside another weight of the role "MLP up"
_IS_ATTENTION = re.compile(r"attn|attention")
_IS_CROSS = re.compile(r"cross_?att|encoder_attn|encdecattention")
_IS_MLP = re.compile(r"^(mlp.*|ffn?|feed_?forward|densereludense|experts?|shared_experts?|block_sparse_moe)$")
_IS_EMBEDDING = re.compile(r"^(wte|wpe|embed|embed_.+|.*embeddings?|.+_embed)$")
_IS_HEAD = re.compile(
    r"^(heads?|head_dist|lm_head|.*classifier|classification_head|score|fc|cls|pooler|pre_logits|qa_outputs|"
    r"last_linear|proj_out|embed_out|output_layer)$"
)
_IS_SQUEEZE = re.compile(r"^se(_.+)?$")  # squeeze and excitation, whose convolutions are called as an MLP's
_STAGES = ("stages", "layers", "levels")  # whose numbers are of stages where what follows is numbered too
_BLOCK = re.compile(r"(.*?(?:^|\.)\d+(?:\.(?:(?:blocks|layers|albert_layers)\.)?\d+)?)\.(.*\D.*)")


def split_name(name: str) -> tuple[str, str]:
    """The block that a layer belongs to and its name there; ("", name) outside of blocks.

    >>> split_name("bert.encoder.layer.3.output.dense"), split_name("layers.0.blocks.1.attn.qkv"), split_name("fc")
    (('bert.encoder.layer.3', 'output.dense'), ('layers.0.blocks.1', 'attn.qkv'), ('', 'fc'))

    A block is one residual block: of networks with stages (Swin, ResNet, ConvNeXt) both numbers are in it.
    """
    found = _BLOCK.fullmatch(name)
    return (found[1], found[2]) if found else ("", name)


def role_of(name: str, kind: str = "") -> Role:
    """What a layer does in its network, as far as its name tells by the conventions of transformers and timm.

    Args:
        name: dotted, of the module or parameter, as in a record's ``name``.
        kind: of the weight, as in a record's ``kind``: "linear", "conv2d", "embedding", "in_proj", ...
    """
    block, inside = split_name(name)
    parts = [part for part in inside.lower().split(".") if not part.isdecimal()]
    everything = [part for part in name.lower().split(".") if not part.isdecimal()]
    if kind == "embedding":
        return "embedding"
    if kind == "in_proj":
        return "attention qkv"
    in_mlp = any(map(_IS_MLP.match, parts))
    if any(map(_IS_ATTENTION.search, parts)) and not in_mlp:
        return _last(parts, _ROLE_IN_ATTENTION) or "other"
    if _is_shortcut(name.lower().split(".")):
        return "shortcut"
    if (
        block
        and not any(map(_IS_SQUEEZE.match, parts))
        and (role := _last(parts, _ROLE_IN_MLP) or _feed_forward(parts))
    ):
        return role
    if any(map(_IS_EMBEDDING.match, everything)):
        return "embedding"
    if not block and any(map(_IS_HEAD.match, parts)):
        return "head"
    if kind.startswith("conv") or (not kind and any("conv" in part for part in parts)):
        return "convolution"
    return "other"


def short_names(layers: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Names that survive a narrow place: "L03.attn.q", "L2.0.conv1", "head.fc"; a different one for each layer.

    The numbers are the name's own, with zeros so that they sort as text. What all names start with is left out; where
    several stacks have the same numbers, as encoder and decoder, the part of the name that tells them apart stands
    before.

    Args:
        layers: (name, kind) of each, in order; all layers of a model, so that two runs of it have the same names.

    Returns:
        Name -> short name.

    >>> short_names([("vit.layers.0.attention.q_proj", "linear"), ("vit.layers.0.mlp.fc2", "linear")])
    {'vit.layers.0.attention.q_proj': 'L0.attn.q', 'vit.layers.0.mlp.fc2': 'L0.mlp.down'}
    """
    names = [name for name, _ in layers]
    places = [split_name(name) for name in names]
    numbers = {block: _numbers(block) for block, _ in places if block}
    widths = [max(len(str(number)) for number in column) for column in _columns(numbers.values())]
    stems = {block: re.sub(r"[\d.]+$", "", block).split(".") for block in numbers}
    above = _common(list(stems.values()))
    are_apart = max(Counter(map(tuple, numbers.values())).values(), default=1) > 1
    short, long = [], []
    for (name, kind), (block, inside) in zip(layers, places, strict=True):
        if block:
            stack = f"{stems[block][len(above)]}." if are_apart and len(stems[block]) > len(above) else ""
            padded = (str(number).zfill(width) for number, width in zip(numbers[block], widths, strict=False))
            head = f"{stack}L{'.'.join(padded)}"
            short.append(f"{head}.{_inside(inside, kind)}")
            long.append(f"{head}.{inside}")
        else:
            parts = name.split(".")
            start = min(len(_common([parts, above])), len(parts) - 1)
            short.append(".".join(parts[start:]))
            long.append(name)
    found = short
    for longer in (long, names):
        count = Counter(found)
        found = [text if count[text] == 1 else other for text, other in zip(found, longer, strict=True)]
    return dict(zip(names, found, strict=True))


def _last(parts: list[str], roles: dict[str, Role]) -> Role | None:
    """The role that the last part with one has: "attn.proj.ln.linear" is as "attn.proj"."""
    return next((roles[part] for part in reversed(parts) if part in roles), None)


def _feed_forward(parts: list[str]) -> Role | None:
    """BERT's and ALBERT's, whose dense layers are told apart by what stands before them."""
    if parts[-2:] == ["intermediate", "dense"] or parts == ["ffn"]:
        return "MLP up"
    return "MLP down" if parts == ["output", "dense"] else None


def _is_shortcut(parts: list[str]) -> bool:
    """A projection beside a residual block; not the one between two stages, which has the same name in some."""
    if "shortcut" in parts or "skip" in parts:
        return True
    position = parts.index("downsample") if "downsample" in parts else 0
    return position > 0 and (position < 2 or parts[position - 2] not in _STAGES)


def _inside(inside: str, kind: str) -> str:
    role = role_of(f"0.{inside}", kind)
    parts = inside.lower().split(".")
    if role in _ATTENTION:
        return f"{'cross' if _IS_CROSS.search(inside.lower()) else 'attn'}.{role.removeprefix('attention ')}"
    if role in _MLP and not kind.startswith("conv"):
        return f"mlp.{'gate' if parts[-1] in _GATES else role.removeprefix('MLP ')}"
    return inside


def _numbers(block: str) -> list[int]:
    """[3] of "bert.encoder.layer.3", [2, 0] of "layer2.0": the numbers at the end of its last components."""
    found: list[int] = []
    for part in reversed(block.split(".")):
        number = re.search(r"\d+$", part)
        if number is None and part not in ("blocks", "layers", "albert_layers"):
            break
        if number is not None:
            found.insert(0, int(number[0]))
    return found


def _columns(rows: Iterable[list[int]]) -> list[list[int]]:
    """The first numbers of all rows, the second ones of those that have one, and so on."""
    found: list[list[int]] = []
    for row in rows:
        found.extend([] for _ in range(len(row) - len(found)))
        for column, number in zip(found, row, strict=False):
            column.append(number)
    return found


def _common(names: list[list[str]]) -> list[str]:
    """The components that all names start with."""
    equal = [column[0] for column in zip(*names, strict=False)]
    for count, column in enumerate(zip(*names, strict=False)):
        if len(set(column)) > 1:
            return equal[:count]
    return equal
