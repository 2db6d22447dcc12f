"""A run that is forked from the imports of others is the run of a fresh process: state, seeds, ends and weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hf_tempbalance.study.executors.local import LocalExecutor
from hf_tempbalance.study.job import Job


pytestmark = pytest.mark.slow
HERE = Path(__file__).resolve().parent
TRAIN = HERE.parents[1] / "scripts" / "train.py"
DIGITS = {
    "architecture": "resnet18_cifar",
    "width_factor": 0.125,
    "dataset": "digits",
    "max_train_samples": 320,
    "max_test_samples": 50,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 32,
    "use_cpu": True,
}
OWN = "study: this run is an interpreter of its own: "


@pytest.fixture(scope="module", params=[1, 2], ids="{} threads".format)
def executors(request):
    """Of one server that is warm, and of one that starts an interpreter for each run."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")  # two threads that spin on busy cores take ten times as long
    made = [LocalExecutor(1, cpus=request.param, fresh=fresh) for fresh in (False, True)]
    yield made
    for executor in made:
        executor.close()
    monkeypatch.undo()


@pytest.fixture(scope="module")
def warm(executors):
    return executors[0]


def run(executor: LocalExecutor, folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and log."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        handle = executor.start(folder, lambda: Job("a", folder, list(arguments)), lock.fileno())
        end = time.time() + 300
        while handle.poll() is None:
            assert time.time() < end, "the run does not end"
            executor.wait(10)
    log = (folder / "log.txt").read_text()
    assert OWN not in log
    return handle.poll(), log


def weights(folder: Path) -> bytes:
    return next(folder.glob("*.safetensors")).read_bytes()


def test_the_weights_of_the_first_second_and_third_run_are_those_of_a_fresh_process(executors, tmp_path):
    flags = [word for name, value in DIGITS.items() for word in (f"--{name}", str(value))]
    found = {}
    for name, executor in (("fresh", executors[1]), *((f"warm {n}", executors[0]) for n in range(3))):
        target = tmp_path / name
        seed = ["4" if name == "warm 1" else "3"]  # another one before the last, which must not be felt
        code, log = run(executor, target, str(TRAIN), *flags, "--output_dir", str(target), "--seed", *seed,
                        "--tempbalance", "true")  # fmt: skip
        assert code == 0, log
        results = json.loads((target / "results.json").read_text())
        found[name] = (weights(target), [(e["epoch"], e["eval_accuracy"]) for e in results["epochs"]])
    assert found["warm 0"] == found["warm 2"] == found["fresh"]
    assert found["warm 1"][0] != found["fresh"][0]  # another seed is another run


def test_so_are_those_of_any_script_under_hf_tempbalance_run(executors, tmp_path):
    script = HERE.parent / "scripts_of_others" / "classify_images.py"
    found = []
    for name, executor in zip(("warm", "fresh"), executors, strict=True):
        target = tmp_path / name
        ours = ["-m", "hf_tempbalance.run", "--min_eigenvalues", "8"]
        flags = "--seed 5 --num_train_epochs 2 --use_cpu True --report_to none --dataloader_num_workers 1".split()
        code, log = run(executor, target, *ours, str(script), "--output_dir", str(target), *flags)
        assert code == 0, log
        found.append(weights(target))
        assert json.loads((target / "results.json").read_text())["status"] == "finished"
    assert found[0] == found[1]


STATE = """
import datasets, torch, transformers.trainer, json, logging, multiprocessing, os, signal, sys, threading, warnings
import numpy as np
print(json.dumps({
    "main": [__name__, __file__, sys.modules["__main__"].__file__, sys.argv, sys.path, os.getcwd()],
    "flags": [str(sys.flags), sys.warnoptions],
    "environment": {k: v for k, v in os.environ.items() if k not in ("_", "SHLVL", "LINES", "COLUMNS")},
    "processes": [multiprocessing.get_start_method(), multiprocessing.current_process().name,
                  multiprocessing.parent_process() is None, multiprocessing.active_children()],
    "threads": [t.name for t in threading.enumerate()],
    "signals": [str(signal.getsignal(s)) for s in sorted(signal.valid_signals()) if s not in (9, 19)],
    "streams": [[s.encoding, s.errors, s.line_buffering, s.isatty(), s.fileno()] for s in (sys.stdout, sys.stderr)],
    "torch": [torch.get_num_threads(), str(torch.get_default_dtype()), torch.cuda.is_initialized(),
              torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
              torch.backends.mkldnn.enabled, torch.is_grad_enabled(), torch.get_num_interop_threads()],
    "numpy": str(np.geterr()),
    "logging": [str(logging.getLogger().handlers), logging.getLogger().level, transformers.logging.get_verbosity()],
    "files": sorted(set(os.path.basename(os.readlink(f"/proc/self/fd/{n}")) for n in os.listdir("/proc/self/fd")
                        if os.path.exists(f"/proc/self/fd/{n}")) - {"fd"}),
}))
"""


def test_a_script_finds_the_state_of_a_fresh_process(executors, tmp_path):
    script = tmp_path / "state.py"
    script.write_text(STATE)
    found = []
    for executor in executors:
        target = tmp_path / "run"
        code, log = run(executor, target, str(script), "--flag")
        assert code == 0, log
        found.append(json.loads(log.splitlines()[-1]))
        (target / "log.txt").unlink()
    assert found[0] == found[1]


def test_what_nobody_seeded_differs_from_run_to_run(warm, tmp_path):
    script = tmp_path / "draw.py"
    script.write_text(
        "import datasets.fingerprint as f, numpy as np, random, torch\n"
        "print(random.random(), np.random.rand(), torch.rand(1).item(), f.fingerprint_rng.random())"
    )
    draws = [run(warm, tmp_path / str(n), str(script))[1].splitlines()[-1].split() for n in range(2)]
    assert len(draws[0]) == 4 and not set(draws[0]) & set(draws[1])


def test_it_ends_as_a_process_ends(warm, tmp_path):
    def ending(name: str, text: str) -> tuple[int, str]:
        script = tmp_path / f"{name}_script.py"
        script.write_text(text)
        return run(warm, tmp_path / name, str(script))

    assert ending("code", "import sys; print('to the end'); sys.exit(7)") == (7, "to the end\n")
    code, log = ending("error", "def f():\n    raise ValueError('mine')\nf()\n")
    script = tmp_path / "error_script.py"
    assert code == 1 and log.splitlines()[:2] == [
        "Traceback (most recent call last):",
        f'  File "{script}", line 3, in <module>',
    ]
    assert log.endswith("ValueError: mine\n")
    code, log = ending("exit", "import atexit; atexit.register(print, 'at exit')")
    assert (code, log) == (0, "at exit\n")
    thread = "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.2), print('joined'))).start()"
    assert ending("thread", thread) == (0, "joined\n")
    assert ending("interrupt", "import os, signal; os.kill(os.getpid(), signal.SIGINT)")[0] == -2
    assert ending("memory", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)") == (-9, "")
    assert ending("after", "print('the next goes on')") == (0, "the next goes on\n")


def test_a_script_beside_a_module_of_that_name_is_a_process_of_its_own_and_the_log_says_why(warm, tmp_path):
    (tmp_path / "evaluate.py").write_text("mine = 'mine'")
    script = tmp_path / "script.py"
    script.write_text("import evaluate; print(evaluate.mine)")
    target = tmp_path / "run"
    target.mkdir()
    with (tmp_path / "lock").open("w") as lock:
        handle = warm.start(target, lambda: Job("a", target, [str(script)]), lock.fileno())
        while handle.poll() is None:
            warm.wait(10)
    said, printed = (target / "log.txt").read_text().splitlines()
    assert said.startswith(OWN) and "evaluate.py beside script.py" in said and printed == "mine"


def test_the_imports_start_no_thread_and_do_not_touch_a_gpu(tmp_path):
    program = (
        "import os, sys, threading\nfrom hf_tempbalance.study.executors.warm import Server\n"
        "server = Server(None, is_fresh=False)\nserver.warm_up()\n"
        "tasks = [open(f'/proc/self/task/{n}/comm').read().strip() for n in os.listdir('/proc/self/task')]\n"
        "import torch\nprint(threading.active_count(), server.trouble, torch.cuda.is_initialized(), *tasks)"
    )

    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    found = done.stdout.splitlines()[-1].split()
    assert found[:3] == ["1", "None", "False"]
    assert sorted(found[3:]) in (["python"], ["jemalloc_bg_thd", "python"])  # pyarrow's, which knows about forks
