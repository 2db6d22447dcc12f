"""What training prints: lines of a table from a TempBalanceTrainer, Trainer's own dictionaries from a plain one."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import ConvNet, Digits, trainer_settings
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from hf_tempbalance import TempBalanceCallback, TempBalanceConfig, TempBalanceTrainer, TempBalanceTrainingArguments


CONFIG = TempBalanceConfig(min_eigenvalues=1)


def accuracy(prediction) -> dict[str, float]:
    return {"accuracy": float(np.mean(prediction.predictions.argmax(-1) == prediction.label_ids))}


def printed(folder, capsys, *, make=TempBalanceTrainer, before=lambda trainer: None, tempbalance=CONFIG, **changes):
    """The lines of a training of two epochs, of 2 steps each."""
    kind = TempBalanceTrainingArguments if make is TempBalanceTrainer else TrainingArguments
    usual = {"logging_strategy": "epoch", "eval_strategy": "epoch", "lr_scheduler_type": "constant"}
    args = kind(**trainer_settings(folder, **(usual | changes)))
    more = {"tempbalance": tempbalance} if make is TempBalanceTrainer else {}
    data = {"train_dataset": Digits(64), "eval_dataset": Digits(64), "compute_metrics": accuracy}
    trainer = make(ConvNet(), args, **data, **more)
    before(trainer)
    capsys.readouterr()
    trainer.train()
    return capsys.readouterr().out.splitlines(), trainer


def test_one_line_an_epoch_with_loss_metrics_rate_mean_multiplier_and_range_of_alpha(tmp_path, capsys):
    lines, trainer = printed(tmp_path, capsys)
    start, header, *epochs, end = lines
    assert start.startswith("TempBalance: ") and end.startswith("4 steps in ")
    assert header.split("  ")[-1].strip() == "alpha (median)"
    assert header.split() == ["epoch", "loss", "eval_loss", "accuracy", "rate", "multiplier", "alpha", "(median)"]
    assert len(epochs) == 2 and {len(line) for line in epochs} == {len(header)}
    logged = {key: value for entry in trainer.state.log_history for key, value in entry.items()}
    low, high = logged["tempbalance/alpha_min"], logged["tempbalance/alpha_max"]
    last = ["2/2", f"{logged['loss']:.4f}", f"{logged['eval_loss']:.4f}", f"{logged['eval_accuracy']:.4f}", "0.05"]
    assert epochs[-1].split() == [
        *last,
        f"{logged['tempbalance/multiplier_mean']:.2f}",
        f"{low:.2f}",
        "to",
        f"{high:.2f}",
    ]


@pytest.mark.slow
def test_plain_training_has_its_own_columns(tmp_path, capsys):
    lines, _ = printed(tmp_path, capsys, tempbalance=None)
    assert lines[0].split() == ["epoch", "loss", "eval_loss", "accuracy", "rate"] and len(lines) == 4


def test_with_steps_there_is_a_line_for_each_logged_step(tmp_path, capsys):
    lines, _ = printed(tmp_path, capsys, logging_strategy="steps", logging_steps=1, eval_strategy="no")
    assert [line.split()[:2] for line in lines[2:6]] == [["0.50", "1"], ["1/2", "2"], ["1.50", "3"], ["2/2", "4"]]


def test_a_column_that_comes_later_comes_with_a_new_header(tmp_path, capsys):
    lines, _ = printed(tmp_path, capsys, eval_delay=2)
    assert "accuracy" not in lines[1] and "accuracy" in lines[3] and lines[4].split()[0] == "2/2"


@pytest.mark.parametrize("width", [30, *(pytest.param(width, marks=pytest.mark.slow) for width in (60, 80))])
def test_a_narrow_terminal_has_the_first_columns(tmp_path, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.delenv("LINES", raising=False)
    lines, _ = printed(tmp_path, capsys)
    header = lines[1].split()
    assert max(map(len, lines[1:4])) <= width and header[:2] == ["epoch", "loss"]
    assert ("alpha" in header) == (width > 30) and ("eval_loss" in header) == (width > 60)


def test_a_metric_that_is_no_number_has_no_column_and_stops_nothing(tmp_path, capsys):
    def of_each_class(trainer):
        trainer.compute_metrics = lambda prediction: accuracy(prediction) | {"recalls": [0.5, 0.25]}

    lines, trainer = printed(tmp_path, capsys, before=of_each_class)
    assert lines[1].split()[:5] == ["epoch", "loss", "eval_loss", "accuracy", "rate"] and lines[3].split()[0] == "2/2"
    trainer.evaluate()
    assert "recalls" not in capsys.readouterr().out


def test_an_evaluation_beside_training_is_a_line(tmp_path, capsys):
    _, trainer = printed(tmp_path, capsys)
    metrics = trainer.evaluate()
    assert capsys.readouterr().out == (
        f"evaluation: loss {metrics['eval_loss']:.4f}, accuracy {metrics['eval_accuracy']:.4f}\n"
    )


def test_what_somebody_else_prints_is_left_alone(tmp_path, capsys):
    plain, _ = printed(
        tmp_path / "plain",
        capsys,
        make=Trainer,
        before=lambda trainer: trainer.add_callback(TempBalanceCallback(CONFIG)),
    )
    assert [line for line in plain if line.startswith("{'loss'")] and not any("alpha (" in line for line in plain)

    class Mine(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            print("mine", sorted(logs)[0])  # noqa: T201

    def instead(trainer):
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(Mine())

    lines, _ = printed(tmp_path / "mine", capsys, before=instead)
    assert all(line.startswith(("mine", "TempBalance:")) for line in lines) and len(lines) > 4
