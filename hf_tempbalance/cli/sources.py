"""Weights to analyse: in safetensors files and folders, on the Hub, in timm, or of a model that a function makes.

Files are read one tensor at a time and need no model code; pickles are refused, since reading one can run code.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..runs.checkpoints import last_complete_checkpoint
from ..spectra.weights import Unreadable, Weight, find_weights
from ..terminal import missing


PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
SEED = 0  # of random weights
HEADER_LENGTH = 8  # bytes at the start of a safetensors file: the size of the JSON that follows
INDEX_NAME, WEIGHTS_NAME = "model.safetensors.index.json", "model.safetensors"
# Two-dimensional weights that are embeddings in the architectures of transformers; a file does not say.
EMBEDDING = re.compile(
    r"(^|\.)(wte|wpe|shared|\w*embeddings?|embed_\w+|\w*_embed|tok_embed\w*|relative_attention_bias)$"
)


@dataclass(frozen=True)
class Source:
    """The weights behind a name, in order.

    Attributes:
        has_model: whether the order and the kinds are a model's own.
        weights_are: what a name of timm does not tell: random weights, or timm's; empty for all else.
    """

    name: str
    weights: list[Weight]
    has_model: bool
    weights_are: str = ""


@dataclass(frozen=True, eq=False)
class StoredWeight(Weight):
    """A weight in a file. Its tensor has shape and dtype only; the numbers are read when they are asked for."""

    load: Callable[[], Tensor] = field(kw_only=True)

    @property
    def unreadable(self) -> Unreadable | None:
        """Why there is no spectrum, see `Weight`: "quantized" where the file has integers or 8-bit floats."""
        return None if self.tensor.is_floating_point() and self.tensor.dtype in DTYPES.values() else "quantized"

    def whole(self) -> Tensor:
        """The numbers, read now."""
        return self.load()


def open_source(name: str, *, pretrained: bool = False) -> Source:
    """Find the weights behind a name.

    Args:
        name: a ``.safetensors`` file, the index of sharded ones, a folder with either (of ``save_pretrained``),
            ``module:factory`` (a function without arguments that returns a model), a name of timm's registry, or a
            Hub id (owner/name), of which the safetensors files are downloaded.
        pretrained: take timm's weights of a name of timm, in the place of random ones, which are the same each time.

    Raises:
        ValueError: it is none of these, a pickle, damaged, or has no weights, or they can't be downloaded. The message
            says what to do.
    """
    path = Path(name).expanduser()
    if pretrained and (path.exists() or not re.fullmatch(r"[\w.-]+", name)):
        raise ValueError(f"--pretrained is for a name of timm, and {name} has its own weights. Leave it out.")
    if path.exists():
        return Source(name, list(_read(_file_of(path))), has_model=False)
    if path.suffix in {".safetensors", ".json", *PICKLES} or ".." in path.parts or path.is_absolute():
        raise ValueError(f"{name} does not exist.")
    if re.fullmatch(r"[\w.]+:\w+", name):
        return Source(name, list(find_weights(_call(*name.split(":")))), has_model=True)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return Source(name, list(_read(_download(name))), has_model=False)
    model = _timm_model(name, pretrained=pretrained)
    if model is None:
        raise ValueError(
            f"{name!r} is no file or folder, no name of timm's registry, no Hub id (owner/name) and no module:factory."
        )
    weights_are = "timm's pretrained weights" if pretrained else f"random weights (seed {SEED})"
    return Source(name, list(find_weights(model)), has_model=True, weights_are=weights_are)


def _file_of(path: Path) -> Path:
    """The safetensors file or index that a path stands for."""
    if path.is_dir():
        found = [path / known for known in (INDEX_NAME, WEIGHTS_NAME) if (path / known).is_file()]
        found += sorted(path.glob("*.safetensors.index.json")) + sorted(path.glob("*.safetensors"))
        if not found and any(inside.suffix in PICKLES for inside in path.iterdir()):
            path = next(inside for inside in sorted(path.iterdir()) if inside.suffix in PICKLES)
        elif not found:
            newest, _ = last_complete_checkpoint(path)
            hint = "" if newest is None else f" Its newest checkpoint is {newest}."
            raise ValueError(f"{path} has no safetensors file.{hint}")
        else:
            return found[0]
    if path.suffix in PICKLES:
        raise ValueError(
            f"{path} is a pickle, and reading one can run code. Save its weights as safetensors first: "
            "safetensors.torch.save_file(torch.load(path, weights_only=True), 'model.safetensors'), or "
            "model.save_pretrained(folder)."
        )
    if path.suffix not in (".safetensors", ".json"):
        raise ValueError(f"{path} has the ending {path.suffix!r}; .safetensors or an index (.json) is needed.")
    return path


@dataclass(frozen=True)
class _Stored:
    """Where a tensor is in a file."""

    key: str
    file: Path
    shape: tuple[int, ...]
    dtype: str
    offset: int  # of its first byte
    size: int  # in bytes

    def load(self) -> Tensor:
        """Read the tensor into memory of its own: a mapped file would stay as long as one of its tensors."""
        data = bytearray(self.size)
        with self.file.open("rb") as stream:
            stream.seek(self.offset)
            if stream.readinto(data) != self.size:
                raise ValueError(f"{self.file} became shorter while it was read. Download or save it again.")
        dtype = DTYPES[self.dtype]
        return (torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)).view(self.shape)


def _read(path: Path) -> Iterator[StoredWeight]:
    """The matrix-shaped tensors of a file or of the shards of an index, by name with numbers in their order."""
    files = _shards(path) if path.suffix == ".json" else [path]
    found = [stored for file in files for stored in _stored_in(file)]
    for stored in sorted(found, key=lambda stored: _natural(stored.key)):
        key, shape = stored.key, stored.shape
        if len(shape) >= 2:
            tensor = torch.empty(shape, dtype=DTYPES.get(stored.dtype, torch.int8), device="meta")
            if tensor.is_floating_point():
                tensor = nn.Parameter(tensor)
            kind = kind_of(key, shape)
            name = key if kind in ("parameter", "in_proj", "experts") else key.removesuffix(".weight")
            yield StoredWeight(name, kind, tensor, (tensor,), load=stored.load)


def _stored_in(file: Path) -> Iterator[_Stored]:
    """All tensors of a file. The library checks the header and keeps to itself where a tensor's bytes are."""
    _check(file)
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(HEADER_LENGTH), "little")
        header = json.loads(stream.read(length))
    for key, entry in header.items():
        if key != "__metadata__":
            start, end = entry["data_offsets"]
            offset = HEADER_LENGTH + length + start
            yield _Stored(key, file, tuple(entry["shape"]), entry["dtype"], offset, end - start)


def kind_of(key: str, shape: tuple[int, ...]) -> str:
    """The kind of a layer from the name and the shape of its weight, as far as these tell.

    Matrices are "linear", or "embedding" where the name says so; a fused query, key and value "in_proj"; four
    dimensions "conv2d", and so on. "parameter": not the weight of a layer.
    """
    name, _, last = key.rpartition(".")
    if last == "in_proj_weight" and len(shape) == 2 and shape[0] == 3 * shape[1]:
        return "in_proj"
    if len(shape) == 3 and "experts" in key.split("."):
        return "experts"
    if last != "weight" or len(shape) > 5:
        return "parameter"
    if len(shape) == 2:
        return "embedding" if EMBEDDING.search(name) else "linear"
    return f"conv{len(shape) - 2}d"


def _natural(key: str) -> list[Any]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", key)]


def _check(file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is no whole safetensors file: {error}. Download or save it again.") from error


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"{index} is not the index of sharded safetensors files: {error!r}.") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or name == "..":
            raise ValueError(f"{index} names {name!r}, which is not a file beside it.")
        if not (index.parent / name).is_file():
            raise ValueError(f"{index} names {name}, which is not there. Download or save the model again.")
    return [index.parent / name for name in names]


def _download(repo_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(repo_id, allow_patterns=["*.safetensors", "*.safetensors.index.json"])
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = type(error).__name__  # its text may have a signed address in it
        raise ValueError(
            f"{repo_id} can't be read from the Hub ({reason}). Check the name, access and network."
        ) from error
    return _file_of(Path(folder))


def _timm_model(name: str, *, pretrained: bool) -> nn.Module | None:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{name!r} is no file or folder, no Hub id (owner/name) and no module:factory. If it is a name of timm: "
            f"{missing(error)}"
        ) from error
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    from ..tasks import backbones  # noqa: F401  registers the *_cifar networks

    if not timm.is_model(name):
        return None
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return timm.create_model(name, pretrained=pretrained)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = type(error).__name__  # as for the Hub
        raise ValueError(f"timm's weights of {name} can't be downloaded ({reason}). Check the network.") from error
    except RuntimeError as error:  # a tag of weights that the architecture does not have, or none at all
        raise ValueError(f"{name}: timm says {str(error).rstrip('.')}.") from error


def _call(module: str, factory: str) -> nn.Module:
    if "" not in sys.path:
        sys.path.insert(0, "")  # a console command does not look in the current folder by itself
    try:
        model = getattr(importlib.import_module(module), factory)()
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(f"{module}:{factory} can't be called: {error}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{module}:{factory} returned a {type(model).__name__}; a torch.nn.Module is needed.")
    return model
