"""Text as blocks of tokens: a byte-level BPE made from the training split, packed documents, both cached."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from .byte_bpe import train_bpe
from .text_data import EMBEDDED, VALIDATION, check_column, open_text, python_pages


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedTokenizerBase

END = "<|endoftext|>"
SMALLEST_VOCABULARY = 257  # every byte, and the end of a document


class Blocks(torch.utils.data.Dataset):
    """Blocks of equal length of a stream of tokens; what is left at its end is not used.

    Args:
        tokens: (N,), unsigned integers, may be memory-mapped.
        block_size: tokens of a block.
    """

    def __init__(self, tokens: np.ndarray, block_size: int) -> None:
        self.tokens, self.block_size = tokens, block_size

    def __len__(self) -> int:
        return len(self.tokens) // self.block_size

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """input_ids and labels, both (block_size,), int64; the model shifts the labels."""
        if not 0 <= index < len(self):
            raise IndexError(index)  # which ends a loop over the blocks
        start = index * self.block_size
        block = torch.from_numpy(self.tokens[start : start + self.block_size].astype(np.int64))
        return {"input_ids": block, "labels": block}


@dataclass(frozen=True)
class LanguageSplits:
    """The parts of a data set, and the tokenizer that they were made with."""

    train: Blocks
    validation: Blocks
    test: Blocks | None
    tokenizer: PreTrainedTokenizerBase


def load_blocks(
    dataset: str,
    *,
    config: str | None = None,
    column: str = "text",
    block_size: int = 256,
    vocab_size: int = 4096,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> LanguageSplits:
    """Read a data set, tokenize it and pack it; from the cache where another run has done it.

    Args:
        dataset: python-docs, or as `open_text` takes it.
        config: name of a configuration on the Hub.
        column: of the text.
        block_size: tokens of a block.
        vocab_size: of the BPE that is made from the training split.
        tokenizer: use this one instead.

    Raises:
        ValueError: as `open_text`; a column is missing, a split is empty or shorter than a block, a vocabulary that
            is too small or larger than the text gives.
    """
    found = python_pages() if dataset == EMBEDDED else open_text(dataset, config)
    check_column(dataset, column, found["train"].column_names)
    splits = _three_splits(dataset, found)
    made = _cached(dataset, splits, column, vocab_size, tokenizer)
    if tokenizer is None:
        from transformers import PreTrainedTokenizerFast

        tokenizer = PreTrainedTokenizerFast.from_pretrained(made)
    blocks = {}
    for name in splits:
        tokens = np.load(made / f"{name}.npy", mmap_mode="r")
        if len(tokens) < block_size:
            raise ValueError(
                f"the {name} split of {dataset} has {len(tokens)} tokens, less than one block: "
                f"block_size={block_size} must be smaller, or the data larger."
            )
        blocks[name] = Blocks(tokens, block_size)
    return LanguageSplits(blocks["train"], blocks["validation"], blocks.get("test"), tokenizer)


def make_tokenizer(texts: Iterator[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE whose vocabulary has exactly ``vocab_size`` tokens; the same texts give the same one.

    Raises:
        ValueError: the size is too small, or larger than the text gives.
    """
    from transformers import PreTrainedTokenizerFast

    check_vocab_size(vocab_size)
    tokenizer = train_bpe(texts, vocab_size, [END])
    if tokenizer.get_vocab_size() < vocab_size:
        raise ValueError(
            f"vocab_size={vocab_size} is more than the training text gives, which is {tokenizer.get_vocab_size()}."
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END)


def check_vocab_size(vocab_size: int) -> None:
    """Raise ValueError where there is no place for every byte and the end of a document."""
    if vocab_size < SMALLEST_VOCABULARY:
        raise ValueError(
            f"vocab_size={vocab_size} is not allowed: it must be {SMALLEST_VOCABULARY} (every byte and the end of a "
            "document) or larger."
        )


def cache_folder() -> Path:
    """Where tokenizers and packed tokens are kept: beside the cache of datasets, in HF_HOME."""
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "hf_tempbalance"


def _three_splits(dataset: str, found: DatasetDict) -> dict[str, Dataset]:
    """train, validation (else a tenth of the documents that is held out: every tenth one) and, if any, test."""
    train = found["train"]
    validation = next((found[name] for name in VALIDATION if name in found), None)
    if validation is None:
        if len(train) < 10:
            raise ValueError(
                f"{dataset} has {len(train)} documents and no validation split: too few to hold out a tenth. Add a "
                "split named validation."
            )
        positions = np.arange(len(train))
        validation, train = (train.select(positions[mask]) for mask in (positions % 10 == 9, positions % 10 != 9))
    splits = {"train": train, "validation": validation}
    return splits | ({"test": found["test"]} if "test" in found else {})


def _texts(rows: Dataset, column: str) -> Iterator[str]:
    """The documents, without those that are empty."""
    for batch in rows.select_columns([column]).iter(1000):
        for text in batch[column]:
            if text is None:
                continue
            if not isinstance(text, str):
                raise ValueError(f"column {column!r} has {type(text).__name__}s, not text.")
            if text:
                yield text


def _cached(
    dataset: str, splits: dict[str, Dataset], column: str, vocab_size: int, tokenizer: PreTrainedTokenizerBase | None
) -> Path:
    """The folder with tokenizer and tokens of these texts. Processes that make it at once all make the same."""
    import tokenizers

    key = hashlib.sha256(
        f"1 {tokenizers.__version__} {vocab_size if tokenizer is None else _content(tokenizer)}".encode()
    )
    for name, rows in splits.items():
        key.update(f"\0{name}\0".encode())
        is_empty = True
        for text in _texts(rows, column):
            key.update(text.encode(errors="surrogatepass") + b"\0")
            is_empty = False
        if is_empty:
            raise ValueError(f"the {name} split of {dataset} has no text in column {column!r}.")
    folder = cache_folder() / key.hexdigest()[:32]
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix="making-", dir=folder.parent))
    making.chmod(0o755)  # others may read what is in a cache that is shared
    try:
        if tokenizer is None:
            tokenizer = make_tokenizer(_texts(splits["train"], column), vocab_size)
            tokenizer.save_pretrained(making)
        for name, rows in splits.items():
            np.save(making / f"{name}.npy", _tokens(_texts(rows, column), tokenizer))
        try:
            os.rename(making, folder)
        except OSError:
            if not folder.is_dir():  # else another process was quicker
                raise
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return folder


def _content(tokenizer: PreTrainedTokenizerBase) -> str:
    """All that the tokens of a text depend on, the end token among it, which a backend does not know."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    return f"{tokenizer.eos_token_id} {content}"


def _tokens(texts: Iterator[str], tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """All documents end to end, each with the end token behind it: (N,), uint16 where the vocabulary allows."""
    kind = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
    end = tokenizer.eos_token_id
    if end is None:
        raise ValueError("the tokenizer has no end token (eos_token), which separates documents.")
    parts: list[np.ndarray] = []
    batch: list[str] = []

    def encode() -> None:
        encoded = tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        parts.extend(np.array([*ids, end], dtype=kind) for ids in encoded)
        batch.clear()

    for text in texts:
        batch.append(text)
        if len(batch) == 100:
            encode()
    if batch:
        encode()
    return np.concatenate(parts)
