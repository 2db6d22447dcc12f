"""``hf-tempbalance run``: scripts of others, unchanged, with the callback in them and a record of the run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from forked import run_directly, run_script
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.distributed.elastic.utils.distributed import get_free_port

from hf_tempbalance import TempBalanceConfig, run
from hf_tempbalance.runs.history import HISTORY_NAME, read_history
from hf_tempbalance.runs.measured import measure
from hf_tempbalance.runs.run import read_run


SCRIPTS = Path(__file__).parents[1] / "scripts_of_others"
SMALL = ["--use_cpu", "--num_train_epochs=2", "--eval_strategy=epoch", "--logging_strategy=epoch"]
SMALL += ["--save_strategy=no", "--disable_tqdm=true", "--report_to=none", "--seed=3"]
OWN = {"classify_text": ["--do_train", "--do_eval", "--do_predict"]}
BALANCE = ["--min_eigenvalues", "8"]

EXTRA = [pytest.mark.slow, pytest.mark.extras]
HEAD = """
from pathlib import Path
from tiny import ConvNet, Digits, trainer_settings
from transformers import Trainer, TrainingArguments
def trainer(folder, kind=Trainer, **options):
    args = TrainingArguments(**trainer_settings(Path(folder), num_train_epochs=1))
    return kind(ConvNet(), args, train_dataset=Digits(64), eval_dataset=Digits(32), **options)
"""


def script(folder: Path, text: str, head: str = HEAD) -> str:
    (folder / "script.py").write_text(head + text)
    return "script.py"


def results(folder: Path, name: str = "results.json") -> dict:
    return json.loads((folder / name).read_text())


def sha(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "name", ["classify_text", "language_model", "classify_images", pytest.param("sft", marks=EXTRA)]
)
def test_scripts_of_others_are_balanced_and_recorded_and_without_the_method_are_what_they_were(tmp_path, name):
    path, arguments = SCRIPTS / f"{name}.py", [*SMALL, *OWN.get(name, [])]
    if name == "sft":
        pytest.importorskip("trl")
    direct = run_directly(tmp_path, path, *arguments, "--output_dir=direct")
    plain = run_script(tmp_path, "--preset", "none", str(path), *arguments, "--output_dir=plain")
    balanced = run_script(tmp_path, *BALANCE, str(path), *arguments, "--output_dir=balanced")
    assert [ended.code for ended in (direct, plain, balanced)] == [0, 0, 0], balanced.err
    assert sha(tmp_path / "direct") == sha(tmp_path / "plain") != sha(tmp_path / "balanced")
    assert not (tmp_path / "plain" / HISTORY_NAME).exists()
    looks = read_history(tmp_path / "balanced" / HISTORY_NAME)
    assert len(looks) == 3
    for kind in ("plain", "balanced"):
        found = results(tmp_path / kind)
        assert found["status"] == "finished" and found["seconds"] > 0
        assert [epoch["epoch"] for epoch in found["epochs"]] == [1, 2] and "eval_loss" in found["epochs"][-1]
        assert found["arguments"]["seed"] == 3 and found["config"]["script"] == str(path)
        assert found["config"]["script_arguments"][-1] == f"--output_dir={kind}"
        assert "torch" in found["environment"]["versions"]
        assert found["config"]["tempbalance"] is (kind == "balanced")
    assert found["config"]["settings"]["min_eigenvalues"] == 8
    assert plain.err.splitlines()[-1].startswith("hf-tempbalance run: plain/results.json (plain, ")
    assert balanced.err.splitlines()[-1].startswith("hf-tempbalance run: balanced/results.json (TempBalance, 3 looks")


def test_predictions_are_recorded(tmp_path):
    ended = run_script(
        tmp_path, "--preset", "none", str(SCRIPTS / "classify_text.py"), *SMALL, *OWN["classify_text"],
        "--output_dir=out",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    (predicted,) = results(tmp_path / "out")["predictions"]
    assert 0 <= predicted["predict_accuracy"] <= 1


def test_evaluations_of_every_prefix_are_recorded_and_compared(tmp_path):
    text = "t = trainer('a')\nt.train()\nt.save_state()\nt.evaluate(Digits(32), metric_key_prefix='test')"
    ended = run_script(tmp_path, "--preset", "none", script(tmp_path, text))
    assert ended.code == 0, ended.err
    assert results(tmp_path / "a")["epochs"][-1]["test_loss"] > 0
    state = json.loads((tmp_path / "a" / "trainer_state.json").read_text())
    assert not any("test_loss" in entry for entry in state["log_history"])  # it was saved before
    assert measure(read_run(tmp_path / "a"), "test_loss").value == results(tmp_path / "a")["epochs"][-1]["test_loss"]


def test_a_run_that_is_killed_while_it_is_evaluated_after_training_has_not_finished(tmp_path):
    text = "import os\nt = trainer('a')\nt.train()\nos.kill(os.getpid(), 9)\nt.evaluate()"
    assert run_script(tmp_path, "--preset", "none", script(tmp_path, text)).code == -9
    assert results(tmp_path / "a")["status"] == "running"


def test_a_run_has_finished_when_the_script_trains_the_next(tmp_path):
    text = "import os\nt = trainer('a')\nt.train()\nt.evaluate()\ntrainer('b').train()\nos.kill(os.getpid(), 9)"
    assert run_script(tmp_path, "--preset", "none", script(tmp_path, text)).code == -9
    assert [results(tmp_path / name)["status"] for name in "ab"] == ["finished", "running"]
    assert results(tmp_path / "a")["epochs"][-1]["eval_loss"] > 0


def test_a_run_that_was_interrupted_says_so(tmp_path):
    text = FAILING.replace('RuntimeError("out of patience")', "KeyboardInterrupt")
    ended = run_script(tmp_path, "--preset", "none", script(tmp_path, text + "trainer('a', callbacks=[Stop]).train()"))
    found = results(tmp_path / "a")
    assert (found["status"], found["error"]) == ("interrupted", "KeyboardInterrupt")
    assert ended.err.splitlines()[0].startswith("hf-tempbalance run: a/results.json (plain, ")


def test_the_scalars_of_a_look_reach_the_trackers_of_report_to(tmp_path):
    flags = [flag for flag in SMALL if not flag.startswith("--report_to")]
    path = str(SCRIPTS / "language_model.py")
    ended = run_script(tmp_path, *BALANCE, path, *flags, "--report_to=tensorboard", "--output_dir=out")
    assert ended.code == 0, ended.err
    (folder,) = (tmp_path / "out" / "runs").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    assert {"train/tempbalance/alpha_mean", "train/tempbalance/multiplier_max"} <= set(events.Tags()["scalars"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("print('nothing')", "script.py made no Trainer of transformers, so nothing was balanced or recorded"),
        ("trainer('out')", "script.py made a Trainer and did not train it"),
        ("print(trainer('out').evaluate())", "script.py made a Trainer and did not train it"),
    ],
)
def test_a_script_that_trains_nothing_is_told(tmp_path, text, said):
    ended = run_script(tmp_path, *BALANCE, script(tmp_path, text))
    assert ended.code == 0 and said in ended.err
    assert not (tmp_path / "out" / "results.json").exists()


def test_a_script_that_fails_before_it_makes_a_trainer_is_not_taken_for_a_loop_of_its_own(tmp_path):
    ended = run_script(tmp_path, *BALANCE, script(tmp_path, "raise RuntimeError('no data')"))
    assert ended.code == 1 and "script.py ended before it made a Trainer, so nothing was" in ended.err
    assert "TempBalancer" not in ended.err


def test_a_plain_run_in_the_folder_of_a_balanced_one_has_not_its_looks(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / HISTORY_NAME).write_text('{"step": 0}\n')
    ended = run_script(tmp_path, "--preset", "none", script(tmp_path, "trainer('out').train()"))
    assert ended.code == 0 and results(tmp_path / "out")["config"]["tempbalance"] is False
    assert not (tmp_path / "out" / HISTORY_NAME).exists()


def test_two_trainers_are_recorded_each_in_its_folder(tmp_path):
    ended = run_script(tmp_path, *BALANCE, script(tmp_path, "trainer('a').train()\ntrainer('b').train()"))
    assert ended.code == 0, ended.err
    assert [results(tmp_path / name)["status"] for name in "ab"] == ["finished", "finished"]
    assert len(read_history(tmp_path / "a" / HISTORY_NAME)) == len(read_history(tmp_path / "b" / HISTORY_NAME)) == 2
    assert "into one folder" not in ended.err


@pytest.mark.parametrize(
    "text", ["trainer('a').train()\ntrainer('a').train()", "t = trainer('a')\nt.train()\nt.train()"]
)
def test_two_trainings_into_one_folder_are_both_kept_and_that_is_said(tmp_path, text):
    ended = run_script(tmp_path, "--preset", "none", script(tmp_path, text))
    assert ended.code == 0 and "several trainings wrote into one folder" in ended.err
    assert {path.name for path in (tmp_path / "a").glob("results*.json")} == {"results.json", "results-1.json"}
    assert results(tmp_path / "a", "results-1.json")["status"] == "finished"


@pytest.mark.parametrize(
    "text",
    [
        "t = trainer('a')\nt.add_callback(TempBalanceCallback(CONFIG))\nt.train()",
        "trainer('a', kind=TempBalanceTrainer, tempbalance=CONFIG).train()",
    ],
)
def test_a_script_with_tempbalance_of_its_own_gets_no_second_one(tmp_path, text):
    own = "from hf_tempbalance import TempBalanceCallback, TempBalanceConfig, TempBalanceTrainer\n"
    own += "CONFIG = TempBalanceConfig(min_eigenvalues=1, max_ratio=1.25)\n"
    ended = run_script(tmp_path, *BALANCE, script(tmp_path, own + text))
    assert ended.code == 0, ended.err
    assert "the script has a TempBalanceCallback of its own, and no second one is put in" in ended.err
    assert results(tmp_path / "a")["config"]["settings"]["max_ratio"] == 1.25
    assert len(read_history(tmp_path / "a" / HISTORY_NAME)) == 2
    plain = run_script(tmp_path, "--preset", "none", script(tmp_path, own + text))
    assert "so this is not plain training" in plain.err


FAILING = """
from transformers import TrainerCallback
class Stop(TrainerCallback):
    def on_step_end(self, *args, **kwargs):
        raise RuntimeError("out of patience")
"""


def test_a_training_that_fails_is_recorded_with_its_error(tmp_path):
    ended = run_script(tmp_path, *BALANCE, script(tmp_path, FAILING + "trainer('a', callbacks=[Stop]).train()"))
    assert ended.code == 1 and "RuntimeError: out of patience" in ended.err
    assert ended.err.split("Traceback (most recent call last):\n")[1].startswith(
        f'  File "{tmp_path}/script.py", line'
    )
    found = results(tmp_path / "a")
    assert (found["status"], found["error"]) == ("failed", "RuntimeError: out of patience")


def test_an_earlier_training_of_a_script_that_fails_later_stays_finished(tmp_path):
    text = FAILING + "trainer('a').train()\ntrainer('b', callbacks=[Stop]).train()"
    assert run_script(tmp_path, *BALANCE, script(tmp_path, text)).code == 1
    assert [results(tmp_path / name)["status"] for name in "ab"] == ["finished", "failed"]


SEARCH = """
import optuna
def objective(metrics):
    return metrics["eval_loss"]
args = TrainingArguments(**trainer_settings(Path("a"), num_train_epochs=1, eval_strategy="epoch"))
t = Trainer(None, args, model_init=lambda trial: ConvNet(), train_dataset=Digits(64), eval_dataset=Digits(32))
best = t.hyperparameter_search(
    hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 0.01, 0.1)},
    compute_objective=objective, n_trials=2, backend="optuna",
)
print("objective", best.objective)
"""


def test_a_hyperparameter_search_is_recorded_trial_by_trial(tmp_path):
    ended = run_script(tmp_path, "--min_eigenvalues", "1", script(tmp_path, SEARCH))
    assert ended.code == 0, ended.err
    rates = {results(tmp_path / "a" / f"run-{trial}")["arguments"]["learning_rate"] for trial in range(2)}
    assert len(rates) == 2
    assert len(read_history(tmp_path / "a" / "run-1" / HISTORY_NAME)) == 2


def test_the_objective_of_a_search_is_the_evaluation_s_alone(tmp_path):
    text = SEARCH.replace("compute_objective=objective, ", "")
    text += "\nprint('loss', [e['eval_loss'] for e in t.state.log_history if 'eval_loss' in e][-1])"
    ended = run_script(tmp_path, "--min_eigenvalues", "1", script(tmp_path, text.replace("n_trials=2", "n_trials=1")))
    assert ended.code == 0, ended.err
    words = ended.out.split()
    assert words[words.index("objective") + 1] == words[words.index("loss") + 1]


def test_a_resumed_run_goes_on_with_its_seconds(tmp_path):
    path, flags = str(SCRIPTS / "classify_text.py"), [*SMALL, *OWN["classify_text"], "--output_dir=out"]
    flags = [flag for flag in flags if not flag.startswith("--save")] + ["--save_strategy=epoch"]
    assert run_script(tmp_path, *BALANCE, path, *flags).code == 0
    first = results(tmp_path / "out")["seconds"]
    ended = run_script(
        tmp_path, *BALANCE, path, *flags, "--num_train_epochs=3", "--resume_from_checkpoint=out/checkpoint-12"
    )
    assert ended.code == 0, ended.err
    found = results(tmp_path / "out")
    assert found["seconds"] > first and [epoch["epoch"] for epoch in found["epochs"]] == [1, 2, 3]


PROBE = """
import os, sys
assert not {"torch", "transformers", "numpy"} & sys.modules.keys()
import neighbour
print(sys.argv, sys.path[0], __file__, __name__, __package__, __spec__, sys.modules["__main__"].kind)
"""


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("sys.exit('goodbye')", 1),
        ("def f():\n    raise ValueError('of the script')\nf()", 1),
        ("raise KeyboardInterrupt", -signal.SIGINT),
        ("def (", 1),
    ],
)
def test_to_a_script_it_is_as_if_python_had_started_it(tmp_path, text, code):
    (tmp_path / "neighbour.py").write_text("")
    script(tmp_path, text, head="kind = 1" + PROBE)
    (tmp_path / "elsewhere").mkdir()
    started = [
        subprocess.run(
            [sys.executable, *how, "../script.py", "--preset", "x"], cwd=tmp_path / "elsewhere", capture_output=True,
            text=True, check=False,
        )
        for how in ([], ["-m", "hf_tempbalance.run", "--preset", "none"], ["-m", "hf_tempbalance.cli.main", "run"])
    ]  # fmt: skip
    ours = [line for line in started[1].stderr.splitlines() if line.startswith("hf-tempbalance run: ")]
    assert len(ours) == 1
    for one in started[1:]:
        assert (one.returncode, one.stdout) == (code, started[0].stdout)
        assert [line for line in one.stderr.splitlines() if line not in ours] == started[0].stderr.splitlines()


def config(*flags: str) -> TempBalanceConfig | None:
    return run.config_of(run.make_parser().parse_args([*flags, "script.py"]))


def test_options_win_over_the_file_and_the_file_over_the_preset(tmp_path):
    (tmp_path / "a.yaml").write_text("min_ratio: 6e-1\nfit: goodness-of-fit\n")
    file = ["--config", str(tmp_path / "a.yaml")]
    assert config() == TempBalanceConfig() and config("--preset", "none") is None
    assert config(*file) == TempBalanceConfig(min_ratio=0.6, fit="goodness-of-fit")
    assert config(*file, "--fit", "median", "--overlap", "true", "--zero_threshold=1e-4") == TempBalanceConfig(
        min_ratio=0.6, overlap=True, zero_threshold=1e-4
    )


def test_every_setting_is_an_option_and_what_follows_the_script_is_the_script_s():
    parsed = run.make_parser().parse_args(["--fit=median", "train.py", "--fit", "x", "--config", "y", "-m"])
    assert set(TempBalanceConfig().to_dict()) <= set(vars(parsed))
    assert (parsed.fit, parsed.config) == ("median", None)
    assert parsed.arguments == ["--fit", "x", "--config", "y", "-m"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["nowhere.py"], "nowhere.py does not exist. Give the Python file"),
        (["."], ". is a folder. Give the Python file"),
        ([], "which script? Give the Python file that trains"),
        (["--min_rato=1", "x.py"], "unknown option '--min_rato=1'. Did you mean 'min_ratio'?"),
        (["--min_ratio=3", "x.py"], "min_ratio=3 is larger than max_ratio=1.5"),
        (["--min_ratio=much", "x.py"], "min_ratio='much' is not allowed: it must be a finite number"),
        (["--overlap=maybe", "x.py"], "overlap='maybe' is not allowed: it must be True or False"),
        (["--metric=*", "x.py"], "metric='*' is not allowed: it must be one of 'alpha'"),
        (["--preset=none", "--fit=median", "x.py"], "--preset none is plain training and has no settings"),
        (["--preset=nobody", "x.py"], "unknown preset 'nobody'. Allowed are"),
        (["--preset=plain", "x.py"], "none is plain training; hf-tempbalance presets lists the methods."),
        (["--config=nowhere.yaml", "x.py"], "nowhere.yaml"),
        (["--config=bad.yaml", "x.py"], "bad.yaml is not YAML"),
        (["--config=list.yaml", "x.py"], "list.yaml must have one 'option: value' a line"),
        (["--config=key.yaml", "x.py"], "key.yaml: unknown option 'fitt'. Did you mean 'fit'?"),
    ],
)
def test_a_mistake_in_the_options_is_one_line(tmp_path, monkeypatch, capsys, flags, said):
    monkeypatch.chdir(tmp_path)
    for name, text in {"x.py": "", "bad.yaml": "a: [", "list.yaml": "- a", "key.yaml": "fitt: median"}.items():
        Path(name).write_text(text)
    with pytest.raises(SystemExit) as ended:
        run.main(flags)
    err = capsys.readouterr().err
    assert ended.value.code == 2
    assert err.startswith("hf-tempbalance run: ") and said in err and err.count("\n") == 1


def test_tokens_are_not_written_into_the_record():
    given = ["--hub_token", "hf_abc", "--api-key=abc", "--lr", "1", "--wandb_api_key", "abc", "--token", "--x"]
    shown = ["--hub_token", "***", "--api-key=***", "--lr", "1", "--wandb_api_key", "***", "--token", "--x"]
    assert run.masked(given) == shown
    assert run.masked(["--tokenizer_name", "gpt2", "--max_tokens=9"]) == ["--tokenizer_name", "gpt2", "--max_tokens=9"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["accelerate", "torchrun"])
def test_two_processes_balance_alike_and_one_writes(tmp_path, launcher):
    start = {
        "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_machines=1", "--num_processes=2"]
        + ["--mixed_precision=no", "--dynamo_backend=no", f"--main_process_port={get_free_port()}", "-m"],
        "torchrun": ["torch.distributed.run", "--nproc_per_node=2", f"--master_port={get_free_port()}", "-m"],
    }[launcher]
    command = [sys.executable, "-m", *start, "hf_tempbalance.run", *BALANCE, str(SCRIPTS / "language_model.py")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    for _ in range(3):
        done = subprocess.run(
            [*command, *SMALL, "--output_dir=out"], cwd=tmp_path, capture_output=True, text=True, env=environment,
            timeout=240, check=False,
        )  # fmt: skip
        if (
            "SIGABRT" not in done.stderr
        ):  # torch tears its threads down at exit and now and then aborts, without us too
            break
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = results(tmp_path / "out")
    assert (found["status"], found["environment"]["processes"], found["looks"]) == ("finished", 2, 3)
    assert len(read_history(tmp_path / "out" / HISTORY_NAME)) == 3
    assert done.stderr.count("hf-tempbalance run: out/results.json") == 1


@pytest.mark.slow
def test_workers_that_are_spawned_find_the_script(tmp_path):
    path, flags = str(SCRIPTS / "classify_images.py"), [*SMALL, "--dataloader_num_workers=1", "--output_dir=out"]
    command = [sys.executable, "-m", "hf_tempbalance.run", *BALANCE, path, *flags]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert results(tmp_path / "out")["looks"] == 3
