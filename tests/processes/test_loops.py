"""The example loops, run as a user runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from everywhere.programs import SCRIPTS, launch
from forked import run_directly


LAYER = re.compile(r"^  (.+): alpha ([\d.]+), rate x ([\d.]+)$", re.MULTILINE)


def accuracies(output: str) -> list[float]:
    return [float(value) for value in re.findall(r"test accuracy ([\d.]+)", output)]


@pytest.mark.slow
def test_the_accelerate_loop_killed_after_an_epoch_goes_on_as_if_it_had_not_been(tmp_path):
    loop = [str(SCRIPTS / "accelerate_loop.py"), "--epochs=3"]
    through = launch([*loop, f"--output_dir={tmp_path / 'through'}"], 1)
    assert through.returncode == 0, through.stderr
    assert len(accuracies(through.stdout)) == 3 and accuracies(through.stdout)[-1] > 0.9
    assert len({rate for _, _, rate in LAYER.findall(through.stdout)}) > 2

    command = [sys.executable, *loop, f"--output_dir={tmp_path / 'killed'}"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stdout:
            if line.startswith("epoch 1"):
                process.kill()
    assert process.returncode != 0

    again = launch([*loop, f"--output_dir={tmp_path / 'killed'}"], 1)
    assert again.returncode != 0
    assert "has a run already. Pass --resume" in again.stderr
    resumed = launch([*loop, f"--output_dir={tmp_path / 'killed'}", "--resume"], 1)
    assert resumed.returncode == 0, resumed.stderr
    last = through.stdout[through.stdout.index("epoch 3") :]
    assert resumed.stdout.endswith(last)


@pytest.mark.parametrize(
    ("dtype", "scale"), [("bfloat16", "1"), pytest.param("float16", "65536", marks=pytest.mark.slow)]
)
def test_the_amp_loop_learns_with_a_rate_for_each_layer(dtype, scale):
    done = launch([str(SCRIPTS / "amp_loop.py"), "--epochs=8", f"--dtype={dtype}"], 1)
    assert done.returncode == 0, done.stderr
    # bfloat16 rounds otherwise on each kind of CPU (ONEDNN_MAX_CPU_ISA): 0.845 to 0.913 after four epochs, 0.909 to
    # 0.929 after eight.
    assert accuracies(done.stdout)[-1] > 0.85
    assert f"loss scale {scale}\n" in done.stdout
    assert len({rate for _, _, rate in LAYER.findall(done.stdout)}) > 2


@pytest.mark.slow
def test_check_everywhere_prints_the_table_and_tells_by_its_exit_whether_anything_failed(tmp_path):
    script = str(SCRIPTS / "check_everywhere.py")
    done = run_directly(tmp_path, script, "--only", "models", "--markdown")
    assert done.code == 0, done.out + done.err
    assert "| BERT | works | " in done.out and done.out.endswith("Nothing failed.\n")

    (tmp_path / "sitecustomize.py").write_text(
        "import hf_tempbalance\n"
        "def broken(self):\n    raise KeyError('broken')\n"
        "hf_tempbalance.TempBalancer.lr_multipliers = property(broken)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    broken = subprocess.run(
        [sys.executable, script, "--only", "models"], capture_output=True, text=True, env=environment, check=False
    )
    assert broken.returncode == 1
    assert "KeyError" in broken.stdout and "failed" in broken.stdout.splitlines()[-1]
