"""Trains in child processes that are killed at a given moment and resumed: ``killable.py FOLDER`` -> results.json.

One process imports the libraries and forks, so that each run costs its training and not the imports.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from safetensors.torch import load_file
from tiny import ConvNet, Digits, trainer_settings
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import TrainerState

from hf_tempbalance import TempBalanceCallback, TempBalanceConfig, TempBalanceTrainer, TempBalanceTrainingArguments
from hf_tempbalance.runs.history import HISTORY_NAME, read_history


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class KillAt(TrainerCallback):
    """Kills the process at an event of a step. Comes after TempBalance's callback, so its look is written."""

    def __init__(self, event: str, step: int) -> None:
        self.step = step
        setattr(self, event, self.kill)

    def kill(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.step:
            die()


def kill_in_save(moment: str, step: int) -> None:
    """Let the process die while it writes the checkpoint of a step."""
    if moment == "state":

        def half(self, path) -> None:
            if self.global_step == step:
                Path(path).write_text('{"best_global_step": null, "epo')
                die()
            write(self, path)

        write, TrainerState.save_to_json = TrainerState.save_to_json, half
        return
    name = {"model": "save_model", "optimizer": "_save_optimizer_and_scheduler", "rotation": "_save_rng_state"}[moment]
    original = getattr(Trainer, name)

    def killed(self, *args, **kwargs):
        if self.state.global_step == step and moment == "optimizer":
            die()
        result = original(self, *args, **kwargs)
        if self.state.global_step == step:
            die()
        return result

    setattr(Trainer, name, killed)


# name -> (callback that kills, moment of a save), at steps of a run of 4 epochs with 4 steps, saved every 2 steps or
# every epoch, looked at after every epoch
SCENARIOS = {
    "in the middle of an epoch": ("steps", KillAt("on_step_end", 7), None),
    "between an optimizer step and the next": ("steps", KillAt("on_optimizer_step", 5), None),
    "between a look and the checkpoint": ("epoch", KillAt("on_epoch_end", 8), None),
    "before the model is saved whole": ("epoch", None, ("model", 8)),
    "between model and optimizer": ("epoch", None, ("optimizer", 8)),
    "before the state is saved": ("epoch", None, ("rotation", 8)),
    "inside the state": ("epoch", None, ("state", 8)),
    "in the first save": ("epoch", None, ("state", 4)),
}


# A preset on a tiny Llama: its settings for 16 steps. Saved every 2 steps, so the llr run goes on inside a ramp, and
# the alphadecay run between two looks.
PRESETS = {
    "llr": {"update_interval": 5, "ramp_steps": 4, "active_share": 0.7},
    "alphadecay": {"update_interval": 3},
}


def make(kind: str, folder: Path, strategy: str, *callbacks) -> Trainer:
    torch.manual_seed(3)
    if kind in PRESETS:
        return make_llama(kind, folder, *callbacks)
    settings = {"num_train_epochs": 4, "save_strategy": strategy, "save_steps": 2, "optim_args": "momentum=0.9"}
    settings |= {"lr_scheduler_type": "cosine"}
    arguments = TempBalanceTrainingArguments(**trainer_settings(folder, **settings))
    if kind == "callback":
        callbacks = [TempBalanceCallback(), *callbacks]
        return Trainer(ConvNet(), arguments, train_dataset=Digits(128), callbacks=callbacks)
    trainer = TempBalanceTrainer(ConvNet(), arguments, train_dataset=Digits(128), tempbalance=TempBalanceConfig())
    for callback in callbacks:  # after TempBalance's
        trainer.add_callback(callback)
    return trainer


def make_llama(preset: str, folder: Path, *callbacks) -> Trainer:
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = {"num_train_epochs": 4, "save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "cosine"}
    settings |= {"per_device_train_batch_size": 8, "optim": "adamw_torch", "learning_rate": 0.01, "weight_decay": 0.1}
    sizes = {"vocab_size": 99, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(**sizes, intermediate_size=96))
    rows = torch.randint(3, 99, (32, 8), generator=torch.Generator().manual_seed(1))
    callbacks = [TempBalanceCallback(TempBalanceConfig.preset(preset, **PRESETS[preset])), *callbacks]
    arguments = TempBalanceTrainingArguments(**trainer_settings(folder, **settings))
    data = [{"input_ids": row, "labels": row} for row in rows]
    return Trainer(model, arguments, train_dataset=data, callbacks=callbacks)


def run(kind: str, folder: Path, scenario: str | None, resume: bool) -> None:
    strategy, killer, in_save = SCENARIOS.get(scenario, ("epoch", None, None))
    if scenario and not resume and in_save:
        kill_in_save(*in_save)
    trainer = make(kind, folder, strategy, *([killer] if killer and not resume else []))
    # A plain Trainer's True takes the newest folder, whole or not; TempBalanceTrainer finds the newest whole one.
    from hf_tempbalance.runs.checkpoints import last_complete_checkpoint

    newest = last_complete_checkpoint(folder)[0]
    checkpoint = (True if kind == "trainer" else str(newest)) if resume and newest else None
    trainer.train(resume_from_checkpoint=checkpoint)


def fork(function, *arguments) -> int:
    """Exit code of a child process, negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            function(*arguments)
        except BaseException:
            logging.exception("the child failed")
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def ended(folder: Path, strategy: str) -> dict:
    """What must not depend on whether a run was killed."""
    last = folder / "checkpoint-16"
    optimizer = torch.load(last / "optimizer.pt", weights_only=True)
    state = json.loads((last / "trainer_state.json").read_text())["stateful_callbacks"]["TempBalanceCallback"]
    looks = [(look["step"], look["epoch"], look["layers"]) for look in read_history(folder / HISTORY_NAME)]
    tensors = load_file(last / "model.safetensors")
    return {
        "weights": {name: value.double().tolist() for name, value in tensors.items()},
        "optimizer": {k: {name: v.tolist() for name, v in of.items()} for k, of in optimizer["state"].items()},
        "groups": str(optimizer["param_groups"]),
        "schedule": str(torch.load(last / "scheduler.pt", weights_only=True)),
        "multipliers": state["attributes"]["balancer_state"],
        "history": repr(looks),
        "steps": [look[0] for look in looks],
    }


def main(folder: Path, kinds: list[str]) -> None:
    results = {}
    for kind in kinds:
        results |= compare(kind, folder, ["in the middle of an epoch"] if kind in PRESETS else list(SCENARIOS))
    (folder / "results.json").write_text(json.dumps(results))


def compare(kind: str, folder: Path, scenarios: list[str]) -> dict[str, dict]:
    """Each scenario, killed and resumed, against a run that saves as often and is not killed."""
    results: dict[str, dict] = {}
    whole: dict[str, dict] = {}
    for scenario in scenarios:
        strategy = SCENARIOS[scenario][0]
        if strategy not in whole:
            target = folder / f"{kind} whole {strategy}"
            assert fork(run, kind, target, scenario, True) == 0, target
            whole[strategy] = ended(target, strategy)
        target = folder / f"{kind} {scenario}"
        killed = fork(run, kind, target, scenario, False)
        left = sorted(path.name for path in target.glob("checkpoint-*"))
        resumed = fork(run, kind, target, scenario, True)
        found = ended(target, strategy) if resumed == 0 else {}
        differing = [key for key, value in whole[strategy].items() if found.get(key) != value]
        results[f"{kind}: {scenario}"] = {
            "killed": killed,
            "left": left,
            "resumed": resumed,
            "differing": differing,
            "steps": found.get("steps"),
        }
    return results


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
