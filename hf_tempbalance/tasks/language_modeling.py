"""Causal language models from scratch, as scripts/language_modeling.py trains them: options, network, Trainer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from transformers import Trainer

from .language_data import LanguageSplits, check_vocab_size, load_blocks
from .text_data import EMBEDDED, check_dataset, check_model


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, TrainingArguments
    from transformers.trainer_utils import EvalLoopOutput


@dataclass
class LanguageArguments:
    """Which network on which text."""

    dataset: str = field(
        default=EMBEDDED,
        metadata={
            "help": "Hub id, local folder, or one csv, tsv, json, jsonl or parquet file; python-docs is the Python "
            "documentation and needs no download."
        },
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Name of the data set's configuration."})
    text_column: str = field(default="text", metadata={"help": "Column of the text."})
    block_size: int = field(default=256, metadata={"help": "Tokens of a training example."})
    vocab_size: int = field(default=4096, metadata={"help": "Of the byte-level BPE made from the training split."})
    max_eval_blocks: int | None = field(default=None, metadata={"help": "Evaluate and test on the first so many."})
    hidden_size: int = field(default=192, metadata={"help": "Width of the Llama that is trained from scratch."})
    num_hidden_layers: int = field(default=4, metadata={"help": "Its layers."})
    num_attention_heads: int = field(default=4, metadata={"help": "Its heads."})
    intermediate_size: int = field(default=512, metadata={"help": "Width inside its feed-forward parts."})
    tie_word_embeddings: bool = field(default=False, metadata={"help": "Its output head is its embedding."})
    attn_implementation: str | None = field(default=None, metadata={"help": "sdpa, eager, ...; else transformers'."})
    config_name: str | None = field(
        default=None, metadata={"help": "Another architecture from scratch: Hub id or folder with a config.json."}
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Go on with this model and its tokenizer: Hub id or local folder."}
    )
    embedding_lr_factor: float = field(
        default=1.0, metadata={"help": "Embedding and output head train with so many times the rate."}
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Delete the run that the output folder has, and start again."}
    )


RECIPE: dict[str, Any] = {
    "output_dir": "runs/language_modeling",
    "learning_rate": 2e-3,
    "num_train_epochs": 5,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 16,
    "weight_decay": 0.1,
    "warmup_steps": 0.1,
    "lr_scheduler_type": "cosine_with_min_lr",
    "lr_scheduler_kwargs": '{"min_lr_rate": 0.1}',
    "eval_strategy": "epoch",
    "logging_steps": 50,
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "prediction_loss_only": True,  # logits of a validation split would fill the memory
    "seed": 43,
}


class LanguageModelTrainer(Trainer):
    """A Trainer that reports perplexity beside the loss, and can train embedding and head at a rate of their own.

    Args:
        embedding_lr_factor: times the rate for the input embedding and the output head.
    """

    def __init__(self, *args: Any, embedding_lr_factor: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.embedding_lr_factor = embedding_lr_factor

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """As Trainer's, for evaluation and prediction, with ``..._perplexity`` beside each ``..._loss``."""
        output = super().evaluation_loop(*args, **kwargs)
        metrics = output.metrics or {}
        for name in [name for name in metrics if name.endswith("_loss")]:
            metrics[name.removesuffix("loss") + "perplexity"] = perplexity(metrics[name])
        return output

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Trainer's, with groups of their own for embedding and head where they train at another rate."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        if is_new and self.embedding_lr_factor != 1:
            split_off(optimizer, embeddings_of(cast("PreTrainedModel", self.model)), self.embedding_lr_factor)
        return optimizer


def perplexity(loss: float) -> float:
    """exp of the mean loss in nats a token; infinite where that is beyond a float."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def embeddings_of(model: PreTrainedModel) -> list[torch.nn.Parameter]:
    """The weight of the input embedding and, where it is another one, that of the output head."""
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    weights: list[Any] = [module.weight for module in modules if module is not None]
    return list({id(weight): weight for weight in weights}.values())


def split_off(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter], factor: float) -> None:
    """Give parameters groups of their own, with ``factor`` times their group's rate and all else as it was."""
    chosen = {id(parameter) for parameter in parameters}
    for group in list(optimizer.param_groups):
        taken = [parameter for parameter in group["params"] if id(parameter) in chosen]
        if taken:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in chosen]
            optimizer.add_param_group({**group, "params": taken, "lr": group["lr"] * factor})


def check(options: LanguageArguments) -> None:
    """Refuse what can be known to fail before anything is loaded.

    Raises:
        ValueError: no such data set or folder, a size that is none, or two models.
    """
    check_dataset(options.dataset)
    sizes = ("block_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    for name in (*sizes, "max_eval_blocks"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} is not allowed: it must be 1 or larger.")
    if not 0 < options.embedding_lr_factor < math.inf:
        raise ValueError(f"embedding_lr_factor={options.embedding_lr_factor} is not allowed: it must be above 0.")
    if options.config_name and options.model_name_or_path:
        raise ValueError("config_name is for a network from scratch, model_name_or_path for one that is trained.")
    check_model("config_name", options.config_name)
    check_model("model_name_or_path", options.model_name_or_path)
    if options.model_name_or_path is None:
        check_vocab_size(options.vocab_size)
    heads, width = options.num_attention_heads, options.hidden_size
    if not (options.config_name or options.model_name_or_path) and width % (2 * heads):
        raise ValueError(
            f"hidden_size={width} with num_attention_heads={heads} is not allowed: each head needs the same, even "
            "number of dimensions."
        )


def make_model(options: LanguageArguments, data: LanguageSplits) -> PreTrainedModel:
    """The network of a run, with the vocabulary of its tokenizer.

    Raises:
        ValueError: a model can't be read, or takes no blocks of this size.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

    tokenizer = data.tokenizer
    end = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    attention = {} if options.attn_implementation is None else {"attn_implementation": options.attn_implementation}
    name = options.model_name_or_path or options.config_name
    try:
        if options.model_name_or_path:
            model = AutoModelForCausalLM.from_pretrained(options.model_name_or_path, **attention)
        elif options.config_name:
            config = AutoConfig.from_pretrained(options.config_name, vocab_size=len(tokenizer), **end)
            model = AutoModelForCausalLM.from_config(config, **attention)
        else:
            config = LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=options.hidden_size,
                intermediate_size=options.intermediate_size,
                num_hidden_layers=options.num_hidden_layers,
                num_attention_heads=options.num_attention_heads,
                max_position_embeddings=options.block_size,
                tie_word_embeddings=options.tie_word_embeddings,
                **end,
            )
            model = AutoModelForCausalLM.from_config(config, **attention)
    except (OSError, ValueError) as error:
        raise ValueError(f"the model {name or 'from the options'} can't be made: {error}") from error
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest is not None and options.block_size > longest:
        raise ValueError(f"block_size={options.block_size} is longer than the model takes, which is {longest}.")
    return model


def make_trainer(options: LanguageArguments, args: TrainingArguments) -> tuple[LanguageModelTrainer, Any]:
    """A Trainer with network and data, and the test split, which it is not given. Raises as its parts do."""
    from torch.utils.data import Subset
    from transformers import AutoTokenizer, default_data_collator

    tokenizer = None
    if options.model_name_or_path:
        try:
            tokenizer = AutoTokenizer.from_pretrained(options.model_name_or_path)
        except (OSError, ValueError) as error:
            raise ValueError(f"model_name_or_path={options.model_name_or_path!r} can't be read: {error}") from error
    data = load_blocks(
        options.dataset,
        config=options.dataset_config,
        column=options.text_column,
        block_size=options.block_size,
        vocab_size=options.vocab_size,
        tokenizer=tokenizer,
    )

    def first(blocks: Any) -> Any:
        count = options.max_eval_blocks
        return blocks if blocks is None or count is None else Subset(blocks, range(min(count, len(blocks))))

    args.dataloader_pin_memory &= args.device.type != "cpu"
    trainer = LanguageModelTrainer(
        make_model(options, data),
        args,
        train_dataset=data.train,
        eval_dataset=first(data.validation),
        processing_class=data.tokenizer,
        data_collator=default_data_collator,
        embedding_lr_factor=options.embedding_lr_factor,
    )
    return trainer, first(data.test)
