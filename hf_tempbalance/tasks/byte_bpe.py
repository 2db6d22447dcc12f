"""A byte-level BPE made from a text, which both text tasks have where no tokenizer is named."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.normalizers import Normalizer


def train_bpe(
    texts: Iterable[str],
    size: int,
    marks: list[str],
    *,
    add_prefix_space: bool = False,
    normalizer: Normalizer | None = None,
) -> Tokenizer:
    """A tokenizer of at most ``size`` tokens, every byte and the marks among them; the same texts give the same one.

    Args:
        marks: special tokens, which have the first numbers.
        add_prefix_space: the first word of a text has the tokens that it has inside of one.
        normalizer: what is done to a text first.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=marks,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
