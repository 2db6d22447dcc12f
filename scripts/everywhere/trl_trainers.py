"""TRL's trainers on tiny models with random weights, from configuration: trained, saved and resumed."""

from __future__ import annotations

import copy
import tempfile
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Trainer

from hf_tempbalance import TempBalanceCallback, TempBalanceConfig, TempBalanceTrainer
from hf_tempbalance.runs.history import HISTORY_NAME, read_history

from .models import TEXT, TOKENS
from .optimizers import Rates
from .outcome import missing, outcome


TRAINERS = ["SFTTrainer", "SFTTrainer with LoRA", "DPOTrainer", "DPOTrainer with LoRA"]
WAYS = ["callback", "trainer"]  # in TRL's trainer as it is; a class of TempBalanceTrainer and TRL's
STEPS = [0, 4, 8]  # of the looks: 16 rows in batches of 4, 2 epochs


def tokenizer() -> PreTrainedTokenizerFast:
    """Words w0 to w95 and three special ones; nothing to download."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: number for number, word in enumerate(["<pad>", "<s>", "</s>", *(f"w{i}" for i in range(96))])}
    one = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    one.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=one, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def rows(name: str) -> list[dict[str, str]]:
    def text(start: int) -> str:
        return " ".join(f"w{(start + 7 * i) % 96}" for i in range(8))

    if name.startswith("SFT"):
        return [{"text": text(i)} for i in range(16)]
    return [{"prompt": text(i), "chosen": " " + text(i + 1), "rejected": " " + text(i + 2)} for i in range(16)]


def make(name: str, way: str | type[Trainer], folder: str | Path) -> Trainer:
    """The trainer of a row; ``way`` as in `WAYS`, "plain", or a class of one's own."""
    import datasets
    import trl

    datasets.disable_progress_bars()
    kind = name.partition(" ")[0]
    own = way if isinstance(way, type) else getattr(trl, kind)
    settings = getattr(trl, kind.replace("Trainer", "Config"))(
        str(folder),
        num_train_epochs=2,
        per_device_train_batch_size=4,
        learning_rate=0.01,
        max_length=32,
        save_strategy="epoch",
        logging_strategy="no",
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**TEXT, **TOKENS))
    options: dict[str, Any] = {
        "processing_class": tokenizer(),
        "train_dataset": datasets.Dataset.from_list(rows(name)),
    }
    if "LoRA" in name:
        from peft import LoraConfig

        options["peft_config"] = LoraConfig(r=4, target_modules=["q_proj", "o_proj", "up_proj"], task_type="CAUSAL_LM")
    elif kind == "DPOTrainer":
        options["ref_model"] = copy.deepcopy(model)  # else it is read from where the model came from
    if way == "trainer":
        own = type("Mixed", (TempBalanceTrainer, own), {})
        options["tempbalance"] = TempBalanceConfig()
    elif way == "callback":
        options["callbacks"] = [TempBalanceCallback()]
    return own(model, args=settings, **options)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def check_trainer(name: str, way: str) -> None:
    """Raises where a rate, a look or a card is wrong, or a resumed run is not the one that went through."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = make(name, way, folder)
        before = weights(trainer.model)
        train(trainer)
        whole, looks = weights(trainer.model), looks_of(folder)
        if [step for step, _ in looks] != STEPS:
            raise AssertionError(f"looked at the weights at steps {[step for step, _ in looks]}, not {STEPS}")
        if way == "trainer" and "## TempBalance" not in Path(folder, "README.md").read_text(encoding="utf-8"):
            raise AssertionError("the card that is written at a checkpoint does not tell of TempBalance")
        trainer.save_model()
        again = make(name, way, folder)
        again.train(resume_from_checkpoint=str(Path(folder, "checkpoint-4")))
        resumed = weights(again.model)
        if differing := [key for key, value in whole.items() if not torch.equal(value, resumed[key])]:
            raise AssertionError(f"resumed at step 4, {len(differing)} of {len(whole)} weights differ: {differing[0]}")
        if looks_of(folder) != looks:
            raise AssertionError("the history of the resumed run is another one")
    if unmoved := [key for key, value in whole.items() if torch.equal(value, before[key])]:
        raise AssertionError(f"not trained: {unmoved}")


def train(trainer: Trainer) -> None:
    """Every parameter is stepped with the schedule's rate times its layer's multiplier."""
    rates = Rates(trainer.model)
    rates.watch(trainer.create_optimizer())
    callbacks = trainer.callback_handler.callbacks
    (callback,) = [callback for callback in callbacks if isinstance(callback, TempBalanceCallback)]
    rates.balancer = lambda: callback.balancer
    trainer.add_callback(rates)
    trainer.train()
    if rates.steps != STEPS[-1] or len({round(rate, 12) for rate in rates.seen["lr"].values()}) < 3:
        raise AssertionError(f"{rates.steps} steps, the last with the rates {sorted(set(rates.seen['lr'].values()))}")


def looks_of(folder: str) -> list[tuple[int, str]]:
    """(step, all layers as text) of each look."""
    return [(look["step"], str(look["layers"])) for look in read_history(Path(folder, HISTORY_NAME))]


@cache
def plain(name: str) -> None:
    """The same training without TempBalance, to tell whose failure it is."""
    with tempfile.TemporaryDirectory() as folder:
        make(name, "plain", folder).train()


def unavailable(name: str) -> str | None:
    return missing("trl") or (missing("peft") if "LoRA" in name else None)


def check_trainers() -> dict[str, list[str]]:
    """Trainer -> outcome with each way in."""
    return {
        name: [unavailable(name) or outcome(partial(check_trainer, name, way), partial(plain, name)) for way in WAYS]
        for name in TRAINERS
    }
