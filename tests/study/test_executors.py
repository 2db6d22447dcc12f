"""Where runs take place: shares of a machine, runs that need an interpreter of their own, and how a run ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hf_tempbalance.study.executors.devices import slot_environments, visible_gpus
from hf_tempbalance.study.executors.local import LocalExecutor
from hf_tempbalance.study.executors.warm import own_process, shadowing
from hf_tempbalance.study.job import Job


@pytest.mark.parametrize(
    ("jobs", "visible", "gpus", "seen"),
    [
        (2, ["0", "1"], None, ["0", "1"]),
        (1, ["0", "1", "2"], None, ["0"]),  # the rest is for more jobs: what a run computes does not depend on it
        (3, ["4", "7"], None, ["4", "7", "4"]),
        (2, ["0", "1", "2", "3", "4"], 2, ["0,1", "2,3"]),
        (2, ["GPU-a", "GPU-b"], 2, ["GPU-a,GPU-b", "GPU-a,GPU-b"]),
        (2, ["0"], 0, ["", ""]),
    ],
)
def test_each_run_at_a_time_sees_its_share_of_the_gpus(jobs, visible, gpus, seen):
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slot_environments(jobs, visible, gpus)] == seen


def test_nothing_is_said_about_gpus_where_there_are_none():
    assert slot_environments(2, []) == [{}, {}]


def test_more_gpus_for_a_run_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"--gpus 2 is more than this machine shows \(1\)"):
        slot_environments(1, ["0"], 2)


@pytest.mark.parametrize(("named", "seen"), [("2,3", ["2", "3"]), ("1,-1,2", ["1"]), ("", [])])
def test_gpus_that_are_named_already_are_divided(monkeypatch, named, seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == seen


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import torch\nprint(os.environ['HOME'], os.environ.get('X') == 1)\n", None),
        ("import os\nos.environ['TOKENIZERS_PARALLELISM'] = 'false'\nimport torch\n", "sets environment variables"),
        ("import os\nos.environ.setdefault('HF_HOME', '/x')\n", "sets environment variables"),
        ("from os import environ\nenviron |= {'A': 'b'}\n", "sets environment variables"),
    ],
)
def test_a_script_that_sets_environment_variables_gets_its_own_process(tmp_path, text, reason):
    script = tmp_path / "train.py"
    script.write_text(text)
    for arguments in ([str(script)], ["-m", "hf_tempbalance.run", "--preset", "none", str(script), "--seed", "1"]):
        found = own_process(Job("a", tmp_path, arguments), is_fresh=False)
        assert found is None if reason is None else reason in found


def test_so_do_launchers_variables_for_one_run_and_what_is_no_file(tmp_path):
    (tmp_path / "train.py").touch()
    script = str(tmp_path / "train.py")
    launched = own_process(Job("a", tmp_path, ["-m", "accelerate.commands.launch", script]), is_fresh=False)
    assert launched == "it is started by accelerate.commands.launch"
    assert own_process(Job("a", tmp_path, [script], {"HF_HOME": "/x"}), is_fresh=False) == "HF_HOME is set for it"
    for late in ("HF_TOKEN", "WANDB_API_KEY", "CUDA_VISIBLE_DEVICES"):
        assert own_process(Job("a", tmp_path, [script], {late: "x"}), is_fresh=False) is None
    assert own_process(Job("a", tmp_path, ["gone.py"]), is_fresh=False) == "it runs no Python file that is there"


def test_a_module_beside_the_script_is_not_mixed_up_with_an_imported_one(tmp_path):
    (tmp_path / "json.py").write_text("mine = 1")
    assert json.dumps(1) == "1" and shadowing(tmp_path / "train.py") == "json.py"
    (tmp_path / "json.py").rename(tmp_path / "own_json.py")
    (tmp_path / "json").mkdir()  # no package: Python finds its own first
    assert shadowing(tmp_path / "train.py") is None


def run(executor: LocalExecutor, folder: Path, text: str, *arguments: str) -> tuple[int, str]:
    """Exit code and output of a script."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "script.py"
    script.write_text(text)
    with (folder / "lock").open("w") as lock:
        handle = executor.start(folder, lambda: Job("a", folder, [str(script), *arguments]), lock.fileno())
        end = time.time() + 120
        while handle.poll() is None:
            assert time.time() < end, "the run does not end"
            executor.wait(10)
    return handle.poll(), (folder / "log.txt").read_text()


@pytest.fixture
def fresh():
    executor = LocalExecutor(2, fresh=True)
    yield executor
    executor.close()


def test_exit_codes_and_signals_are_those_of_a_process_and_the_log_has_what_it_printed(fresh, tmp_path):
    assert run(fresh, tmp_path / "1", "import sys; print('said', sys.argv[1]); sys.exit(3)", "b") == (3, "said b\n")
    code, log = run(fresh, tmp_path / "2", "raise ValueError('mine')")
    assert code == 1 and log.startswith("Traceback") and log.endswith("ValueError: mine\n")
    assert run(fresh, tmp_path / "3", "import os; os.kill(os.getpid(), 9)") == (-9, "")
    assert run(fresh, tmp_path / "4", "print(input())")[1].endswith("EOFError: EOF when reading a line\n")


def test_a_run_sees_its_threads_and_the_gpus_of_its_slot(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6")
    executor = LocalExecutor(2, cpus=3, fresh=True)
    show = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['CUDA_VISIBLE_DEVICES'])"
    (tmp_path / "wait.py").write_text("import time; time.sleep(60)")
    with (tmp_path / "lock").open("w") as lock:
        first = executor.start(tmp_path, lambda: Job("w", tmp_path, [str(tmp_path / "wait.py")]), lock.fileno())
        assert run(executor, tmp_path / "2", show) == (0, "3 6\n")
        first.terminate()
        while first.poll() is None:
            executor.wait(10)
        assert first.poll() == -signal.SIGTERM
        assert run(executor, tmp_path / "3", show) == (0, "3 5\n")
    executor.close()


RUNNER = """
import sys, time
from pathlib import Path
from hf_tempbalance.study.executors.local import LocalExecutor
from hf_tempbalance.study.job import Job
folder = Path(sys.argv[1])
executor = LocalExecutor(1, fresh=True)
lock = (folder / "lock").open("w")
executor.start(folder, lambda: Job("a", folder, [str(folder / "script.py")]), lock.fileno())
time.sleep(60)
"""


def test_a_run_ends_when_its_runner_is_killed(tmp_path):
    (tmp_path / "script.py").write_text(
        "import os, time\nprint(os.getpid(), os.getppid(), flush=True)\ntime.sleep(60)"
    )
    runner = subprocess.Popen([sys.executable, "-c", RUNNER, str(tmp_path)])
    end = time.time() + 60
    while not (tmp_path / "log.txt").is_file() or not (tmp_path / "log.txt").read_text().endswith("\n"):
        assert time.time() < end
        time.sleep(0.02)
    started = [int(word) for word in (tmp_path / "log.txt").read_text().split()]
    runner.kill()
    runner.wait()
    while any(is_alive(pid) for pid in started):
        assert time.time() < end, "they go on"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_when_the_server_is_killed_its_run_is_over_and_the_next_gets_another_one(fresh, tmp_path):
    (tmp_path / "script.py").write_text(
        "import os, time\nprint(os.getpid(), os.getppid(), flush=True)\ntime.sleep(60)"
    )
    with (tmp_path / "lock").open("w") as lock:
        handle = fresh.start(tmp_path, lambda: Job("a", tmp_path, [str(tmp_path / "script.py")]), lock.fileno())
        while not (tmp_path / "log.txt").is_file() or not (tmp_path / "log.txt").read_text().endswith("\n"):
            fresh.wait(0.02)
        pid, server = (int(word) for word in (tmp_path / "log.txt").read_text().split())
        os.kill(server, signal.SIGKILL)
        while handle.poll() is None:
            fresh.wait(10)
    assert handle.poll() == -signal.SIGKILL
    while is_alive(pid):
        time.sleep(0.02)
    assert run(fresh, tmp_path / "next", "print('on')") == (0, "on\n")
