"""A GPU day: every part a process with a limit, kept at once, gone on with later; a report that makes nothing up."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import bench
import pytest
from benchmarks.solvers import table_of
from gpu import day as days
from gpu import machine
from gpu.bars import BARS
from gpu.day import Runner
from gpu.jobs import best
from gpu.report import page
from gpu.stages import STUDIES, Day, Part, Stage, stages
from synthetic_study import fill, study_in

from hf_tempbalance.study.study_file import load_study


ROOT = Path(__file__).resolve().parents[2]
GPU = {
    "device": "NVIDIA H100",
    "gpus": 1,
    "memory": 85.0,
    "free": 80.0,
    "cuda": "13.0",
    "driver": "580",
    "cores": 16,
    "versions": {"torch": "2.11.0"},
}


def program(code: str) -> tuple[str, ...]:
    """A part that runs these lines; they may call ``write(rows)``, which writes the result file."""
    write = "def write(rows, **more):\n    json.dump({'rows': rows} | more, open(sys.argv[-1], 'w'))\n"
    return (sys.executable, "-c", f"import json, sys, time\n{write}{code}")


@pytest.fixture
def run(tmp_path):
    """A function that runs parts as the stage "made up" on a made-up GPU, and returns how many ended how.

    What it tells is in its list ``told``.
    """

    def run(*parts: Part, minutes: float = 1.0, found: dict | None = None, **options) -> dict[str, int]:
        day = Day("cuda", options.pop("tiny", True), tmp_path / "h100", tmp_path / "studies", None, 1)
        deadline = time.monotonic() + 60 * minutes
        runner = Runner(day, GPU | (found or {}), tmp_path / "packages", deadline, tell=run.told.append, **options)
        return runner.run([Stage("made up", "", 1, list(parts))])

    run.told = []
    return run


def records(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "h100" / "made up.json").read_text())["parts"]


def test_what_a_part_measured_is_kept_and_not_measured_again(run, tmp_path):
    part = Part("one", program(f"open({str(tmp_path / 'runs')!r}, 'a').write('x'); write([{{'value': 1}}])"), 60)
    assert run(part) == {"measured": 1}
    assert run(part) == {"kept": 1}
    assert (tmp_path / "runs").read_text() == "x"
    record = records(tmp_path)["one"]
    assert record["rows"] == [{"value": 1}] and record["machine"]["device"] == "NVIDIA H100" and record["when"]


def test_a_part_that_crashes_or_hangs_loses_itself_alone_and_what_it_wrote_is_kept(run, tmp_path):
    # A child that ignores Ctrl-C, as a library's worker might: it must not outlive the part.
    alive = tmp_path / "alive"
    child = f"import signal, time; signal.signal(2, signal.SIG_IGN); time.sleep(2.5); open({str(alive)!r}, 'w')"
    hangs = f"import subprocess; subprocess.Popen([sys.executable, '-c', {child!r}]); write([1]); time.sleep(60)"
    parts = [
        Part("crashes", program("write([{'value': 1}]); raise SystemExit('no memory')"), 60),
        Part("hangs", program(hangs), 1 / 3),
        Part("is silent", program(""), 60),
        Part("works", program("write([2])"), 60),
    ]
    assert run(*parts) == {"failed": 2, "timed out": 1, "measured": 1}
    found = records(tmp_path)
    assert found["crashes"]["reason"] == "no memory" and found["crashes"]["rows"] == [{"value": 1}]
    assert found["hangs"]["reason"] == "ended after 1 s" and found["hangs"]["rows"] == [1]
    assert found["is silent"]["reason"] == "it wrote no results"
    time.sleep(2)
    assert not alive.exists()


def test_a_dry_run_tells_the_output_of_a_failed_part_and_a_day_its_last_line(run):
    part = Part("crashes", program("print('the cause'); raise SystemExit('it failed')"), 60)
    run(part)
    assert any("the cause" in line for line in run.told)
    run.told.clear()
    run(part, tiny=False, minutes=1.5, again=True)
    assert [line for line in run.told if "it failed" in line] and not any("the cause" in line for line in run.told)


def test_what_failed_is_tried_again_when_the_code_has_changed_or_it_is_asked_for(run, monkeypatch):
    part = Part("fails", program("raise SystemExit('no')"), 60)
    assert run(part) == {"failed": 1}
    assert run(part) == {"kept": 1}
    assert run(part, again=True) == {"failed": 1}
    monkeypatch.setattr(days, "code_of_tree", lambda: "other")
    assert run(part) == {"failed": 1}


def test_a_part_is_cut_off_when_the_day_ends_and_measured_on_the_next(run, tmp_path):
    slow = Part("slow", program("time.sleep(1); write([1])"), 60)
    assert run(slow, minutes=0.5 / 60) == {"cut off": 1}
    assert run(slow, minutes=0) == {"not begun": 1}
    assert records(tmp_path)["slow"]["status"] == "cut off"
    assert run(slow) == {"measured": 1}


def test_runs_of_a_study_end_with_the_day_in_good_order_and_go_on_on_the_next(run, tmp_path, monkeypatch):
    monkeypatch.setattr(days, "TO_END", 10.5)
    code = """
try:
    time.sleep(60)
except KeyboardInterrupt:
    write([{'epochs': 3}], complete=False)
"""
    part = Part("study", program(code), 3600, open_ended=True)
    assert run(part, minutes=12 / 60) == {"unfinished": 1}
    assert records(tmp_path)["study"]["rows"] == [{"epochs": 3}]
    assert run(part, minutes=12 / 60) == {"unfinished": 1}


def test_ctrl_c_ends_the_parts_and_records_nothing_of_them(run, tmp_path):
    started = tmp_path / "started"
    part = Part("slow", program(f"open({str(started)!r}, 'w'); time.sleep(60)"), 60)

    def interrupt() -> None:
        while not started.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    before = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(part, Part("next", program("write([1])"), 60))
    assert time.monotonic() - before < 30 and not (tmp_path / "h100").exists()


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (Part("large", (), 1, gigabytes=90), "it needs 90 GB of GPU memory, and 80 GB are free"),
        (Part("rare", (), 1, packages=("not_a_package",)), "not_a_package is not installed"),
        (
            Part("images", (), 1, data="cifar10"),
            "the data set cifar10 is not in shared/data, in the tree or beside it",
        ),
    ],
)
def test_what_a_part_needs_and_is_not_there_is_said(run, tmp_path, part, reason):
    assert run(part, tiny=False) == {"skipped": 1}
    assert records(tmp_path)[part.name] == {"status": "skipped", "reason": reason}
    assert run(Part(part.name, program("write([1])"), 60)) == {"measured": 1}  # brought along since


def test_every_stage_has_parts_with_names_of_their_own_and_files_that_exist(tmp_path):
    for tiny, device in ((False, "cuda"), (True, "cpu"), (True, "cuda")):
        for stage in stages(Day(device, tiny, tmp_path, tmp_path, tmp_path, 2)):
            names = [part.name for part in stage.parts]
            assert names and len(set(names)) == len(names)
            files = [Path(word) for part in stage.parts for word in part.command if word.endswith((".py", ".yaml"))]
            assert all(file.is_file() for file in files)
            assert tiny or all(device in part.command or part.open_ended for part in stage.parts)
    real = stages(Day("cuda", False, tmp_path, tmp_path, None, 1))
    parts = {(stage.name, part.name) for stage in real for part in stage.parts}
    assert {(bar.stage, bar.part) for bar in BARS} <= parts


def test_bench_takes_the_arguments_of_the_real_sizes_too(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(
        bench, "PARTS", {name: lambda options, n=name: asked.append(n) or [{}] for name in bench.PARTS}
    )
    for stage in stages(Day("cuda", False, tmp_path, tmp_path, tmp_path, 1)):
        for part in stage.parts:
            if part.command[1].endswith("bench.py"):
                words = ["cpu" if word == "cuda" else word for word in part.command[1:]]
                monkeypatch.setattr(sys, "argv", [*words, "--json", str(tmp_path / "rows.json")])
                bench.main()
    assert set(asked) == {"solvers", "analysis", "share", "training", "update", "step", "methods"}
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_the_training_script_takes_what_update_gives_it(tmp_path):
    from hf_tempbalance import TempBalanceConfig, TempBalanceTrainingArguments
    from hf_tempbalance.huggingface.parser import ConfigArgumentParser
    from hf_tempbalance.tasks.image_classification import RunArguments

    training = next(s for s in stages(Day("cuda", False, tmp_path, tmp_path, tmp_path, 1)) if s.name == "training")
    part = next(part for part in training.parts if part.name == "overlap")
    options = dict(pair.split("=") for pair in part.command[part.command.index("--train") + 1 :])
    parser = ConfigArgumentParser((RunArguments, TempBalanceConfig, TempBalanceTrainingArguments))
    parsed, _, arguments = parser.parse_options(options | {"bf16": "false", "output_dir": str(tmp_path)})
    assert parsed.channels_last and parsed.width_factor == 1 and arguments.num_train_epochs == 3
    assert options["bf16"] == "True" and Path(parsed.dataset).name == "cifar10"


@pytest.mark.parametrize("study", STUDIES)
def test_plain_is_paired_with_every_method_seed_by_seed(study):
    runs = load_study(ROOT / "configs" / "studies" / f"{study}.yaml").finals({})
    assert [run.seed for run in runs[:5]] == [runs[0].seed] * 5
    assert [run.cell["method"] for run in runs[:5]] == ["plain", "tempbalance", "farms", "shape_free", "shuffled"]
    assert {run.options["learning_rate"] for run in runs} == {0.1}
    assert Path(runs[0].options["dataset"]).name == STUDIES[study]


def test_more_trainings_at_a_time_are_chosen_where_they_are_worth_it():
    speeds = {1: 10_000.0, 2: 18_000.0, 4: 18_500.0, 6: 19_500.0}
    assert best([{"jobs": n, "images_per_second": speed} for n, speed in speeds.items()]) == 6
    assert best([{"jobs": n, "images_per_second": speed} for n, speed in list(speeds.items())[:3]]) == 2


def test_the_table_of_solvers_leaves_a_small_lead_to_torch():
    rows = [
        {"dtype": "float32", "side": 64, "matrices": 8, "seconds": {"torch": [1.0], "jacobi": [0.9]}, "failed": {}},
        {"dtype": "float32", "side": 128, "matrices": 8, "seconds": {"torch": [1.0], "jacobi": [0.5]}, "failed": {}},
        {"dtype": "float64", "side": 8192, "matrices": 1, "seconds": {"magma": [0.5]}, "failed": {"torch": "no"}},
    ]
    assert [row["way"] for row in table_of(rows, "cpu")["rows"]] == ["torch", "jacobi", "magma"]


# The report


def write(folder: Path, kind: str, stage: str, part: str, found: dict, **record) -> None:
    path = folder / kind / f"{stage}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = json.loads(path.read_text())["parts"] if path.is_file() else {}
    entry = {"status": "measured", "reason": "", "rows": [], "command": "python x", "when": "2026-11-25T00:00:00"}
    parts[part] = entry | {"machine": found} | record
    path.write_text(json.dumps({"stage": stage, "parts": parts}))


def look(ours: list[float], loop: list[float]) -> list[dict]:
    return [{"model": "ResNet18", "seconds": {"ours": ours, "loop": loop}, "accuracy": {"worst": 1e-6}}]


def bar(text: str, what: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"| {what} |"))


def test_before_any_day_every_bar_is_owed(tmp_path):
    text = page([tmp_path])
    assert "Nothing has been measured on a GPU yet" in text
    assert all(bar(text, one.what).endswith("| owed |") for one in BARS)
    assert all(f"* {stage.name} " in text for stage in stages(Day("cuda", False, tmp_path, tmp_path, None, 1)))


def test_numbers_of_a_dry_run_or_a_cpu_never_become_a_gpu_s(tmp_path):
    cpu = GPU | {"device": "cpu", "gpus": 0}
    write(tmp_path, "cpu-tiny", "analysis", "ResNet18", cpu, rows=look([1.0], [31.4159]))
    write(tmp_path, "nvidia-h100-tiny", "analysis", "ResNet18", GPU, rows=look([1.0], [31.4159]))
    write(tmp_path, "nvidia-h100", "analysis", "ResNet18", cpu, rows=look([1.0], [31.4159]))  # a folder by hand
    text = page([tmp_path])
    assert "31.4" not in text and bar(text, "look, ResNet18").endswith("| owed |")
    assert "dry run on a CPU, 2026-11-25: 1 of 1 parts ran through" in text and "It measures nothing" in text


def test_a_bar_is_told_with_its_spread_and_whether_it_holds(tmp_path):
    write(tmp_path, "nvidia-h100", "analysis", "ResNet18", GPU, rows=look([1.0, 1.0, 1.0], [11.0, 12.0, 15.0]))
    write(tmp_path, "nvidia-h100", "analysis", "BERT-base", GPU, rows=look([1.0, 1.0], [4.0, 4.0]))
    write(tmp_path, "nvidia-h100", "share", "ResNet18", GPU, status="failed", reason="out of memory")
    share = [{"model": "Llama-1B", "steps": 100, "look": [1.0, 1.2], "step": [0.5, 0.5]}]
    write(tmp_path, "nvidia-h100", "share", "Llama-1B", GPU, rows=share)
    text = page([tmp_path])
    assert bar(text, "look, ResNet18").endswith("| 12.00 (11.00-15.00) times: holds |")
    assert bar(text, "look, BERT-base").endswith("| 4.00 (4.00-4.00) times: **missed** |")
    assert "2.200% (2.000%-2.400%): **missed**" in bar(text, "look beside 100 steps of Llama-1B, 8 x 1,024 tokens")
    assert bar(text, "look beside an epoch of ResNet18, bf16").endswith("| owed |")
    assert "* share, ResNet18: failed: out of memory" in text
    assert "NVIDIA H100 (85.0 GB), CUDA 13.0, driver 580, 16 cores; torch 2.11.0 (2026-11-25)" in text


WRITTEN = {  # what the parts of each stage write
    "smoke": {"float64": [{"check": "float64", "largest difference": 1e-9, "lacking": {"magma": "not built"}}]},
    "solvers": {
        "solvers": [
            {
                "dtype": "float32",
                "side": 64,
                "matrices": 8,
                "seconds": {"torch": [0.016]},
                "failed": {"magma": "not built"},
            }
        ]
    },
    "share": {"ResNet18": [{"model": "ResNet18", "steps": 390, "look": [0.039], "step": [0.01]}]},
    "training": {
        "throughput": [
            {"contender": "trainer", "images_per_second": [9000.0]},
            {"contender": "pipeline", "images_per_second": [10000.0]},
        ],
        "overlap": [
            {"mode": "no looks", "seconds": 10.0, "waited": None, "between": None, "look": None},
            {"mode": "overlapped", "seconds": 10.5, "waited": 0.0003, "between": 0.2, "look": 0.1},
        ],
        "step": [{"model": "ResNet-18", "optimizer": "SGD, momentum"}],
        "methods": [{"model": "ResNet18", "seconds": {"tempbalance": [0.1], "farms": [0.3]}}],
    },
    "trainer": {"fsdp, 1 process": [{"task": "FSDP2", "processes": 1, "multipliers": {}}]},
    "studies": {"jobs": [{"jobs": 1, "images_per_second": 1e4}, {"jobs": 4, "images_per_second": 3e4}]},
}


def test_everything_that_a_stage_writes_is_told(tmp_path):
    for stage, parts in WRITTEN.items():
        for part, rows in parts.items():
            write(tmp_path, "nvidia-h100", stage, part, GPU, rows=rows)
    cut = {"run": "farms--seed43", "status": "interrupted", "epochs": 120.0, "checkpoint_mb": 89.5}
    write(tmp_path, "nvidia-h100", "studies", "gpu_cifar10, seed 43", GPU, status="unfinished", rows=[cut])
    text = page([tmp_path])
    for line in (
        "| float32 | 64 | 8 | 2.000 | - | torch |",
        "* magma: not built",
        "| ResNet18 | 0.039 (0.039-0.039) | 390 | 0.0100 (0.0100-0.0100) |",
        "| overlapped | 10.5 | 0.1 | 0.0003 | 0.2 |",
        "| trainer | 9000 (9000-9000) |",
        "| ResNet18 | 0.100 (0.100-0.100) | 0.300 (0.300-0.300) |",
        "| FSDP2 | 1 |",
        "Studies are run with 4 at a time.",
        "* farms--seed43: interrupted after 120 epochs, checkpoint of 89.5 MB",
    ):
        assert line in text.splitlines(), line
    assert "0.90 (0.90-0.90): holds" in bar(text, "images per second, to a loop without Trainer")
    assert "0.150% (0.150%-0.150%): holds" in bar(text, "wait of looks beside training, every 20 steps")
    assert "1.000% (1.000%-1.000%): holds" in bar(text, "look beside an epoch of ResNet18, bf16")


def test_finished_runs_of_every_day_are_told_by_the_study_s_own_report_and_those_of_a_cpu_are_not(tmp_path):
    folder = tmp_path / "studies" / "gpu_cifar10"
    fill(folder, study_in(folder), lambda run: 93.0 if run.cell["method"] == "plain" else 94.5 + run.seed / 10)
    text = page([tmp_path])
    assert "Left out: some of its runs are of a CPU." in text and "93.00" not in text
    for path in folder.glob("runs/*/results.json"):
        path.write_text(path.read_text().replace('"device": "cpu"', '"device": "NVIDIA H100"'))
    text = page([tmp_path])
    assert "### small" in text and "93.00" in text and "\n# " not in text
    assert "`gpu_cifar10` and" not in text


def test_two_kinds_of_gpu_are_told_beside_each_other(tmp_path):
    write(tmp_path, "nvidia-h100", "analysis", "ResNet18", GPU, rows=look([1.0], [12.0]))
    write(
        tmp_path / "other",
        "nvidia-h200",
        "analysis",
        "ResNet18",
        GPU | {"device": "NVIDIA H200"},
        rows=look([1.0], [9.0]),
    )
    text = page([tmp_path, tmp_path / "other"])
    assert bar(text, "look, ResNet18").count(" times: ") == 2 and "**missed**" in bar(text, "look, ResNet18")


# The command line


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--device", "cpu", "--out", "{new}"], "--device cpu measures nothing about a GPU"),
        (["--minutes", "0", "--out", "{new}"], "--minutes 0 must be above 0."),
        (["--tiny"], "Where do the results go?"),
        (["--continue", "{empty}"], "has no results of a GPU day"),
        (["--out", "{full}"], "has files already: --continue"),
        (["--only", "smoek", "--list", "--device", "cpu"], "Did you mean 'smoke'?"),
        pytest.param(["--out", "{new}"], "sees no CUDA device", marks=pytest.mark.slow),  # torch in another process
        (["--wheels", "{empty}", "--out", "{new}"], "no *.whl is there."),
        (["report", "{missing}"], "is not a folder of a GPU day."),
    ],
)
def test_a_mistake_is_one_sentence(monkeypatch, capsys, tmp_path, arguments, sentence):
    import gpu_day as script
    from gpu import report

    from hf_tempbalance.terminal import run_command

    for name in ("empty", "full"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "file").touch()
    names = {name: str(tmp_path / name) for name in ("new", "empty", "full", "missing")}
    monkeypatch.setattr(sys, "argv", ["gpu_day.py", *(argument.format(**names) for argument in arguments)])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert report and run_command("gpu_day.py", script.main, debug=False) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line and line.startswith("gpu_day.py: ")


def test_a_folder_of_another_kind_of_gpu_is_said_and_its_results_stay(monkeypatch, capsys, tmp_path):
    import gpu_day as script

    write(tmp_path, "nvidia-h200", "smoke", "float64", GPU)
    monkeypatch.setattr(script, "machine_of", lambda device, environment: GPU)
    one = Stage("smoke", "", 1, [Part("float64", program("write([1])"), 60)])
    monkeypatch.setattr(script, "stages", lambda day: [one])
    monkeypatch.setattr(sys, "argv", ["gpu_day.py", "--continue", str(tmp_path), "--tiny"])
    script.main()
    printed = capsys.readouterr().out
    assert "has results of nvidia-h200; those of nvidia-h100-tiny are measured beside them." in printed
    assert all((tmp_path / kind / "smoke.json").is_file() for kind in ("nvidia-h200", "nvidia-h100-tiny"))


def test_the_first_line_says_what_is_missing_and_how_to_bring_it(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "PACKAGES", {"torch": "torch", "not_there": "not-there"})
    monkeypatch.setattr(machine, "OF_PARTS", {"nor_this": "nor-this"})
    line = machine.what_is_missing(tmp_path)
    start = "Missing: not-there. Missing for single parts: nor-this. Where there is a network: pip download "
    assert line.startswith(start)
    assert line.endswith("-d wheels not-there nor-this; here: --wheels wheels.")
    (tmp_path / "not_there").mkdir()
    (tmp_path / "nor_this.py").touch()
    assert machine.what_is_missing(tmp_path) == "Nothing is missing."


@pytest.mark.slow
def test_wheels_are_installed_for_the_day_alone(tmp_path):
    import zipfile

    wheels, site = tmp_path / "wheels", tmp_path / "site"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "brought-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("brought.py", "")
        wheel.writestr("brought-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: brought\nVersion: 1.0\n")
        wheel.writestr("brought-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("brought-1.0.dist-info/RECORD", "")
    machine.install(wheels, site)
    assert machine.missing({"brought": "brought"}, site) == []
    (wheels / "damaged-1.0-py3-none-any.whl").write_bytes(b"no wheel")
    with pytest.raises(ValueError, match=re.escape(f"--wheels {wheels}: pip can't install them: ")):
        machine.install(wheels, site)
