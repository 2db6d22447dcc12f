"""Runs the parts of a GPU day: processes with a time limit each, whose results are written before the next begins."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpu.machine import ROOT, SCRIPTS, missing
from gpu.stages import Day, Part, Stage
from hf_tempbalance.files import read_json, write_json
from hf_tempbalance.spectra.solvers import TABLE_PATH


WORTH_STARTING = 20.0  # seconds left of the day, or a part would have no time to start
TO_END = 30.0  # seconds in which runs of a study end; of the day's minutes
KEPT_OUTPUT = 3000  # characters of what a failed part printed
PATIENCE_TO_END = 20.0  # seconds after Ctrl-C
PATIENCE_OF_DRY_RUN = 3  # times as long: it shows that things run, also on a busy machine


@dataclass
class Runner:
    """Runs stages and writes a result file for each.

    Attributes:
        day: what the stages were made for.
        machine: that of the results, JSON types.
        site: folder of installed wheels.
        deadline: on the monotonic clock, when the day is over.
        again: whether parts that failed before are tried again though nothing in the tree has changed.
        tell: takes a line for people.
    """

    day: Day
    machine: dict[str, Any]
    site: Path
    deadline: float
    again: bool = False
    tell: Callable[[str], None] = lambda line: print(line, flush=True)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, stages: list[Stage]) -> dict[str, int]:
        """Run all parts that are owed; status -> how many parts ended so. Parts of a dry run go two at a time."""
        self.code = code_of_tree()
        self.patience = PATIENCE_OF_DRY_RUN if self.day.tiny else 1
        self.seconds_left = {stage.name: stage.minutes * 60.0 * self.patience for stage in stages}
        self.running: dict[int, subprocess.Popen] = {}
        self.is_stopped = False
        jobs = [(stage, part) for stage in stages for part in stage.parts]
        self.use_table()
        with ThreadPoolExecutor(2 if self.day.tiny and self.day.device == "cpu" else 1) as pool:
            try:
                ended = list(pool.map(lambda job: self.safely(*job), jobs))
            except KeyboardInterrupt:
                self.stop()
                pool.shutdown(cancel_futures=True)
                raise
        return {status: ended.count(status) for status in dict.fromkeys(ended)}

    def stop(self) -> None:
        """End what runs; nothing is recorded of it, but what it has recorded itself."""
        self.is_stopped = True
        for process in list(self.running.values()):
            end(process, PATIENCE_TO_END)

    def safely(self, stage: Stage, part: Part) -> str:
        """The same as `one`; what goes wrong around a part (a full disk, no memory for a process) costs it alone."""
        try:
            return self.one(stage, part)
        except (OSError, ValueError, RuntimeError) as error:
            self.tell(f"{stage.name}, {part.name}: failed: {error}")
            return "failed"

    def one(self, stage: Stage, part: Part) -> str:
        """Run a part, or say why not; returns its status."""
        if self.is_stopped:
            raise RuntimeError("interrupted")
        before = self.results(stage)["parts"].get(part.name)
        if before is not None and self.is_kept(before):
            return "kept"
        reason = self.obstacle(part)
        if reason is not None:
            if before is None or before["status"] == "skipped":
                self.write(stage, part, {"status": "skipped", "reason": reason})
            self.tell(f"{stage.name}, {part.name}: skipped: {reason}")
            return "skipped"
        left = self.deadline - time.monotonic() - (TO_END if part.open_ended else 0)
        if not part.open_ended:
            left = min(left, self.seconds_left[stage.name])
        if left < WORTH_STARTING and not self.day.tiny or left <= 0:
            self.tell(f"{stage.name}, {part.name}: not begun: its time is over")
            return "not begun"
        start = time.monotonic()
        limit = part.seconds * self.patience
        record = self.measure(part, min(limit, left), is_cut=left < limit)
        self.seconds_left[stage.name] -= time.monotonic() - start
        if before is not None and before.get("rows") and not record["rows"]:
            record["rows"] = before["rows"]  # of an earlier try, better than nothing
        self.write(stage, part, record)
        reason = f": {record['reason']}" if record.get("reason") else ""
        self.tell(f"{stage.name}, {part.name}: {record['status']}, {record['seconds']:.0f} s{reason}")
        if self.day.tiny and "output" in record:  # whoever reads a dry run's log may not have its folder
            self.tell(record["output"])
        if stage.name == "solvers":
            self.use_table()
        return record["status"]

    def is_kept(self, record: dict[str, Any]) -> bool:
        """Whether a part needs no run: it is measured, or failed by the same code."""
        if record["status"] == "measured":
            return True
        return record["status"] in ("failed", "timed out") and not self.again and record.get("code") == self.code

    def obstacle(self, part: Part) -> str | None:
        """Why a part can't run here."""
        lacking = missing({package: package for package in part.packages}, self.site)
        if lacking:
            return f"{', '.join(lacking)} is not installed"
        if part.data is not None and (self.day.data is None or not (self.day.data / part.data).is_dir()):
            return f"the data set {part.data} is not in {self.day.data or 'shared/data, in the tree or beside it'}"
        free = self.machine.get("free")
        if free is not None and not self.day.tiny and free < part.gigabytes:
            return f"it needs {part.gigabytes:g} GB of GPU memory, and {free:g} GB are free"
        return None

    def measure(self, part: Part, limit: float, *, is_cut: bool) -> dict[str, Any]:
        """Run a part; its record has status, rows, seconds, command, and the end of the output if it failed."""
        start = time.monotonic()
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
            output, rows = Path(scratch, "output.txt"), Path(scratch, "rows.json")
            command = [*part.command, "--json", str(rows)]
            with output.open("wb") as log:
                process = subprocess.Popen(
                    command,
                    cwd=scratch,
                    env=environment(self.site, tiny=self.day.tiny) | self.visible(part),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    process_group=0,  # what it starts ends with it
                    preexec_fn=listen_to_ctrl_c,
                )
            self.running[process.pid] = process
            is_over = False
            try:
                process.wait(limit)
            except subprocess.TimeoutExpired:
                is_over = True
            finally:
                end(process, TO_END - 10 if part.open_ended else 5.0)
                self.running.pop(process.pid, None)
            if self.is_stopped:
                raise RuntimeError("interrupted")
            content = read_json(rows) if rows.is_file() else {}
            printed = output.read_text(errors="replace")
        record = {
            "status": "measured",
            "reason": "",
            "rows": rows_of(content),
            "seconds": round(time.monotonic() - start, 1),
            "command": readable(part.command, self.day),
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": self.machine | {"solver_table": table_device()},
            "code": self.code,
        }
        if content.get("complete") is False and (is_over or process.returncode == 0):
            return record | {"status": "unfinished", "reason": "it goes on on the next day"}
        if is_over:
            record |= {"status": "cut off" if is_cut else "timed out", "output": printed[-KEPT_OUTPUT:]}
            return record | {"reason": f"ended after {limit:.0f} s"}
        if process.returncode:
            lines = [line for line in printed.splitlines() if line.strip()] or [f"exit code {process.returncode}"]
            return record | {"status": "failed", "reason": lines[-1][:500], "output": printed[-KEPT_OUTPUT:]}
        if not record["rows"]:
            return record | {"status": "failed", "reason": "it wrote no results", "output": printed[-KEPT_OUTPUT:]}
        return record

    def visible(self, part: Part) -> dict[str, str]:
        """One GPU for a part of one process: Trainer would use all that it sees."""
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")
        return {"CUDA_VISIBLE_DEVICES": seen[0]} if part.gpus == 1 < self.machine["gpus"] else {}

    def results(self, stage: Stage) -> dict[str, Any]:
        """The content of a stage's result file."""
        path = self.day.folder / f"{stage.name}.json"
        return read_json(path) if path.is_file() else {"stage": stage.name, "tiny": self.day.tiny, "parts": {}}

    def write(self, stage: Stage, part: Part, record: dict[str, Any]) -> None:
        """Put a record into the stage's file, in one move."""
        with self.lock:
            results = self.results(stage)
            results["parts"][part.name] = record
            write_json(self.day.folder / f"{stage.name}.json", results)

    def use_table(self) -> None:
        """Let what follows choose its solvers by the table that this kind of machine has measured."""
        measured = self.day.folder / "solvers_table.json"
        if self.day.device == "cpu" or self.day.tiny or not measured.is_file():
            return
        if not TABLE_PATH.is_file() or measured.read_bytes() != TABLE_PATH.read_bytes():
            try:
                shutil.copyfile(measured, TABLE_PATH)
                self.tell(f"{TABLE_PATH.relative_to(ROOT)} is now the table of this machine: commit it.")
            except OSError as error:
                self.tell(f"{TABLE_PATH} stays as it was ({error.strerror}); the table is {measured}.")


def end(process: subprocess.Popen, patience: float) -> None:
    """End a process and all that it started: Ctrl-C first, so that runs can say how far they are, then by force."""
    if process.poll() is None:
        send(process, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    send(process, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):  # a hanging driver does not let it go; the day goes on
        process.wait(10)


def listen_to_ctrl_c() -> None:
    """In a part's process: a day that a shell has put in the background ignores Ctrl-C, and its parts would, too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def send(process: subprocess.Popen, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)  # it began its own group


def environment(site: Path, *, tiny: bool) -> dict[str, str]:
    """Of every part: this tree's package and scripts, and the wheels that were brought."""
    paths = [str(site), str(ROOT), str(SCRIPTS), os.environ.get("PYTHONPATH", "")]
    found = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}
    found |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    return found | ({"OMP_NUM_THREADS": "1"} if tiny else {})


def rows_of(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of bench.py's files, under the name of the part, and of ours."""
    return next((value for value in content.values() if isinstance(value, list)), [])


def readable(command: tuple[str, ...], day: Day) -> str:
    """The command without the paths of this machine."""
    text = " ".join(f"'{part}'" if " " in part else part for part in ("python", *command[1:]))
    for path, name in ((day.data, "DATA"), (day.folder, "RESULTS"), (day.studies, "STUDIES"), (ROOT, ".")):
        text = text if path is None else text.replace(str(path), name)
    return text.replace("./scripts", "scripts")


def table_device() -> str | None:
    """The device that the package's table of solvers was made on."""
    return json.loads(TABLE_PATH.read_text())["device"] if TABLE_PATH.is_file() else None


def code_of_tree() -> str:
    """A hash of package and scripts: what failed is tried again when one of them has changed."""
    found = hashlib.sha256()
    for path in sorted(_sources()):
        found.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:12]


def _sources() -> Iterator[Path]:
    for folder in ("hf_tempbalance", "scripts", "configs"):
        yield from (path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".yaml"))
