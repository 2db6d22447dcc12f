from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hf_tempbalance.runs.history import append_look, continue_history, is_tuned, read_history


def look(step: int, alpha: float = 2.5) -> dict:
    layer = {"name": "conv1", "alpha": alpha, "excluded_by": None, "multiplier": 1.5}
    return {"step": step, "epoch": step / 10, "seconds": 0.1, "layers": [layer]}


def test_looks_come_back_in_order(tmp_path):
    path = tmp_path / "new folder" / "history.jsonl"
    for step in (0, 10, 20):
        append_look(path, look(step))
    assert read_history(path) == [look(0), look(10), look(20)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_file_is_strict_json_and_what_is_not_finite_comes_back_as_nan(tmp_path, value):
    path = tmp_path / "history.jsonl"
    append_look(path, look(0, value))
    assert json.loads(path.read_text(), parse_constant=pytest.fail)["layers"][0]["alpha"] is None
    layer = read_history(path)[0]["layers"][0]
    assert math.isnan(layer["alpha"]) and layer["excluded_by"] is None


LAYERS = ["conv1"]


def test_looks_after_a_step_are_dropped(tmp_path):
    path = tmp_path / "history.jsonl"
    for step in (0, 10, 20):
        append_look(path, look(step))
    assert continue_history(path, 10, LAYERS) is None
    assert [item["step"] for item in read_history(path)] == [0, 10]
    assert continue_history(path, -1, LAYERS) is None
    assert read_history(path) == []
    assert [item.name for item in tmp_path.iterdir()] == ["history.jsonl"]


def test_continuing_a_file_that_is_not_there_makes_none(tmp_path):
    assert continue_history(tmp_path / "new" / "none.jsonl", 5, LAYERS) is None
    assert not (tmp_path / "new" / "none.jsonl").exists()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (b'{"step": 10, "lay', "the last line is cut off"),
        (b"\x00\xff\x00 rubbish\n", "line 2 is not a look"),
        (b'{"step": 10}\n', "line 2 is not a look"),
        (b"[]\n", "line 2 is not a look"),
    ],
)
def test_a_damaged_file_is_kept_aside_and_its_readable_lines_are_taken_over(tmp_path, damage, problem):
    path = tmp_path / "history.jsonl"
    append_look(path, look(0))
    with path.open("ab") as file:
        file.write(damage)
    before = path.read_bytes()
    message = continue_history(path, 10, LAYERS)
    assert message == f"{path}: {problem}. The file as it was is now history.damaged-1.jsonl."
    assert (tmp_path / "history.damaged-1.jsonl").read_bytes() == before
    append_look(path, look(10))
    assert read_history(path) == [look(0), look(10)]


def test_a_second_damaged_file_does_not_replace_the_first(tmp_path):
    path = tmp_path / "history.jsonl"
    for number in (1, 2):
        path.write_text(f"rubbish {number}\n")
        continue_history(path, 10, LAYERS)
    assert (tmp_path / "history.damaged-1.jsonl").read_text() == "rubbish 1\n"
    assert (tmp_path / "history.damaged-2.jsonl").read_text() == "rubbish 2\n"


def test_a_file_of_another_model_is_kept_aside_and_not_continued(tmp_path):
    path = tmp_path / "history.jsonl"
    append_look(path, look(0))
    message = continue_history(path, 10, ["conv1", "conv2"])
    assert "line 1 is a look at other layers" in message
    assert read_history(path) == [] and read_history(tmp_path / "history.damaged-1.jsonl") == [look(0)]


def test_a_file_that_can_not_be_used_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "history.jsonl"
    path.mkdir()
    with pytest.raises(ValueError, match=r"history.jsonl can't be used .*: Is a directory. .* another output folder"):
        continue_history(path, 0, LAYERS)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user of the machine may reach, which pytest's are not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, who may write everywhere."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("exists", [True, False])
def test_a_read_only_folder_is_noticed_at_the_start(open_folder, exists):
    path = open_folder / "history.jsonl"
    if exists:
        append_look(path, look(0))
        path.chmod(0o666)
    open_folder.chmod(0o555)
    with (
        as_nobody(),
        pytest.raises(ValueError, match=r"history.jsonl can't be used .*: Permission denied. .* another"),
    ):
        continue_history(path, 0, LAYERS)
    assert [item.name for item in open_folder.iterdir()] == (["history.jsonl"] if exists else [])


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("gone", "It is a link to gone, which does not exist"),
        ("/dev/full", "It is a device"),
        ("/dev/null", "It is a device"),
    ],
)
def test_a_dangling_link_or_a_device_in_the_history_s_place_is_noticed_at_the_start(tmp_path, target, problem):
    path = tmp_path / "history.jsonl"
    path.symlink_to(target)
    with pytest.raises(ValueError, match=f"history.jsonl can't be used .*: {problem}.* another output folder"):
        continue_history(path, 0, LAYERS)
    assert path.is_symlink() and not (tmp_path / "gone").exists()


def test_a_pipe_in_the_history_s_place_is_noticed_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "history.jsonl")
    with pytest.raises(ValueError, match="It is a device, a pipe or a socket"):
        continue_history(tmp_path / "history.jsonl", 0, LAYERS)


def test_a_line_that_could_not_be_written_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "history.jsonl"
    append_look(path, look(0))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr("os.fsync", full)
        append_look(path, look(10))
    append_look(path, look(20))
    assert read_history(path) == [look(0), look(20)]


def long_look(step: int, size: int) -> dict:
    """A look whose line has about this many bytes."""
    return look(step) | {"filling": "x" * (size - 150)}


def fill(path: Path, size: int) -> list[int]:
    """Append looks until one can't be written; the steps of those that could."""
    written = []
    with contextlib.suppress(OSError):
        for step in range(1000):
            append_look(path, long_look(step, size))
            written.append(step)
    assert 0 < len(written) < 1000
    return written


SIZES = [400, 1500, 4000, 12_000]  # bytes of a line: below and above the 8 kB of a file object's buffer


@pytest.mark.parametrize("size", SIZES)
def test_a_file_that_may_not_grow_has_whole_lines_and_takes_the_next_look_when_it_may(tmp_path, size):
    path = tmp_path / "history.jsonl"
    # Python ignores SIGXFSZ, so that a write above the limit is an error and no signal.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_001, hard))
    try:
        written = fill(path, size)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [item["step"] for item in read_history(path)] == written and path.read_bytes().endswith(b"\n")
    append_look(path, long_look(2000, size))
    assert [item["step"] for item in read_history(path)] == [*written, 2000]


ON_A_SMALL_DISK = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_history import append_look, fill, long_look, read_history
path, size = Path(sys.argv[1], "history.jsonl"), int(sys.argv[2])
filling = path.with_name("filling")
filling.write_bytes(bytes(10_000))
written = fill(path, size)
assert [item["step"] for item in read_history(path)] == written, path.read_bytes()[-300:]
assert path.read_bytes().endswith(b"\\n")
filling.unlink()
append_look(path, long_look(2000, size))
assert [item["step"] for item in read_history(path)] == [*written, 2000]
"""


@pytest.mark.parametrize("size", SIZES)
def test_a_full_disk_has_whole_lines_and_takes_the_next_look_when_there_is_space(tmp_path, size):
    mount = f"mount -t tmpfs -o size=40k none {tmp_path}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("a small file system can't be mounted here")
    program = [sys.executable, "-c", ON_A_SMALL_DISK, str(tmp_path), str(size), str(Path(__file__).parent)]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh", *program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_foreign_file_is_refused_with_file_and_line(tmp_path):
    path = tmp_path / "history.jsonl"
    append_look(path, look(0))
    with path.open("a") as file:
        file.write('{"loss": 1.0}\n')
    with pytest.raises(ValueError, match=r"history.jsonl, line 2 is not a look"):
        read_history(path)


def test_a_layer_of_a_look_is_tuned_unless_a_rule_excludes_it():
    assert is_tuned({"excluded_by": None}) and not is_tuned({"excluded_by": "last"})
