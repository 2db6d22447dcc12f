"""Names and messages from outside are text: in tables, titles, errors, file names and pictures."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from safetensors.torch import save_file

import hf_tempbalance
from hf_tempbalance.cli import main as cli
from hf_tempbalance.files import file_stem
from hf_tempbalance.runs.history import HISTORY_NAME
from hf_tempbalance.runs.plots import as_text, plot_alphas, plot_history, plot_spectrum
from hf_tempbalance.terminal import printable, run_command


CLIPBOARD = "\x1b]52;c;aGk=\x07"
NAMES = {
    "escape": f"a{CLIPBOARD}b",
    "markup": "[link=file:///etc/passwd]x[/link]",
    "unbalanced markup": "[/red]",
    "formula": r"w$\frac$x$",
    "long": "n" * 300,
    "nul": "a\0b",
    "slash": "a/b",
    "parent": "..",
    "newline": "a\nb",
    "second control set": "a\x9bb",
    "bidirectional": "a\u202eb",
    "half": "a\ud800b",
    "tag": "<script>alert(1)</script>",
}


def terminal_output(*arguments: str, width: int = 600) -> str:
    """What the command writes to a terminal of so many columns, stdout and stderr together."""
    ours, theirs = pty.openpty()
    chunks: list[bytes] = []

    def read() -> None:
        try:
            while chunk := open(ours, "rb", buffering=0, closefd=False).read(65536):  # noqa: SIM115
                chunks.append(chunk)
        except OSError:  # the other end is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    environment = os.environ | {"COLUMNS": str(width)}
    code = "import sys; from hf_tempbalance.cli.main import main; sys.exit(main())"
    subprocess.run(
        [sys.executable, "-c", code, *arguments], stdout=theirs, stderr=theirs, env=environment, check=False
    )

    os.close(theirs)
    reader.join(10)
    os.close(ours)
    return b"".join(chunks).decode("utf-8", errors="replace")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    """A file whose tensors have every name that a file can have."""
    path = tmp_path_factory.mktemp("hostile") / f"[bold]{CLIPBOARD}.safetensors"
    names = [name for name in NAMES.values() if name != NAMES["half"]]
    save_file({f"{name}.weight": torch.randn(8, 8) for name in names}, path)
    return path


@pytest.mark.parametrize("name", NAMES.values(), ids=list(NAMES))
def test_every_character_that_is_printed_is_shown_as_itself(name):
    assert printable(name).isprintable()
    printable(name).encode("utf-8")
    assert printable(name) == name or "\\" in printable(name)


def test_a_table_in_a_terminal_has_the_names_as_text(hostile):
    shown = terminal_output("analyze", str(hostile))
    assert "]52;c" in shown and "\x1b]" not in shown and "\x07" not in shown and "\x9b" not in shown
    assert "\\x1b]52" in shown and "\u202e" not in shown and "[bold]" in shown
    flat = "".join(shown.split())
    assert "[/red]" in flat and "[link=file:///etc/passwd]" in flat


@pytest.mark.slow
@pytest.mark.parametrize("width", [80, 100, 160])
def test_no_line_is_longer_than_the_terminal(hostile, width):
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal_output("analyze", str(hostile), width=width))
    lines = [line.rpartition("\r")[2] for line in shown.replace("\r\n", "\n").split("\n")]
    table = lines[[line.startswith("name ") for line in lines].index(True) :]
    assert len(table) > len(NAMES) and max(map(len, table)) <= width


@pytest.mark.parametrize("arguments", [[], ["--csv"], ["--json"]], ids=["piped", "csv", "json"])
def test_what_is_piped_has_no_escape_sequence(hostile, arguments, capsys):
    assert cli.main(["analyze", str(hostile), *arguments]) == 0
    out = capsys.readouterr().out
    assert "]52;c" in out and not {"\x1b", "\x07", "\x9b", "\0", "\u202e"} & set(out)


def test_errors_have_no_escape_sequence(hostile, tmp_path, capsys):
    assert cli.main(["analyze", str(tmp_path / f"{CLIPBOARD}[/x].safetensors")]) == 1
    assert cli.main(["report", f"gone{CLIPBOARD}"]) == 1
    assert cli.main(["analyze", str(hostile), "--only", CLIPBOARD]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 3 and err.count("\\x1b]52") + err.count("\\\\x1b") >= 2 and "\x1b" not in err


def test_every_picture_has_a_valid_file_of_its_own(hostile, tmp_path, capsys):
    assert cli.main(["analyze", str(hostile), "--plots", str(tmp_path)]) == 0
    assert len(list(tmp_path.glob("*.png"))) == len(NAMES)  # without the half, with the one of all alphas


def test_file_names_stay_in_their_folder_and_never_collide(tmp_path):
    taken = {"alphas"}
    stems = [file_stem(name, taken) for name in [*NAMES.values(), "a/b", "a_b", "A_B", "", ".", "alphas", "ALPHAS"]]
    assert len({stem.lower() for stem in stems}) == len(stems) and "alphas" not in stems
    for stem in stems:
        (tmp_path / f"{stem}.png").write_text("")
    assert len(list(tmp_path.iterdir())) == len(stems)
    assert file_stem("layer1.0.conv1", set()) == "layer1.0.conv1"


@pytest.mark.parametrize("name", NAMES.values(), ids=list(NAMES))
def test_pictures_have_names_as_text(name):
    layer = {"name": name, "alpha": 3.0, "xmin": 0.5, "D": 0.1, "multiplier": 1.2, "excluded_by": None}
    looks = [{"epoch": 0.0, "layers": [layer]}, {"epoch": 1.0, "layers": [layer]}]
    spectrum = plot_spectrum(np.linspace(0.1, 2, 30), layer)
    figures: list[Figure] = [spectrum, plot_alphas([layer]), plot_history(looks, name)]
    for figure in figures:
        figure.savefig(io.BytesIO(), format="png")  # a formula that can't be read raises
    title = spectrum.axes[0].get_title()
    assert title.isprintable() and len(title) < 100 and title.count("$") == title.count(r"\$")


def test_a_dollar_in_a_picture_is_a_dollar():
    assert as_text("a$b$c") == r"a\$b\$c"


def test_the_page_has_names_as_text(tmp_path, capsys):
    numbers = {"alpha": 3.0, "multiplier": 1.0, "D": 0.1, "stable_rank": 2.0, "num_eigenvalues": 8, "kind": "linear"}
    layers = [numbers | {"name": name, "excluded_by": None} for name in NAMES.values()]
    looks = [{"step": step, "epoch": step, "seconds": 0.1, "layers": layers} for step in (0, 1)]
    folder = tmp_path / "run <b>"
    folder.mkdir()
    (folder / HISTORY_NAME).write_text("".join(json.dumps(look) + "\n" for look in looks))
    assert cli.main(["report", str(folder)]) == 0
    page = (folder / "tempbalance_report.html").read_text(encoding="utf-8")
    assert "<script>" not in page and "&lt;script&gt;" in page and "run <b>" not in page
    assert page.replace("\n", "").isprintable() and "\\x1b]52" in page and "\\ud800" in page


def test_an_error_nobody_foresaw_is_named_and_the_traceback_is_one_option_away(capsys):
    def broken() -> None:
        raise KeyError(CLIPBOARD)

    assert run_command("x", broken, debug=False) == 1
    err = capsys.readouterr().err
    assert err.startswith("x: unexpected KeyError: ") and "--debug shows where" in err and err.count("\n") == 1
    assert run_command("x", broken, debug=True) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err and "in broken" in err and err.splitlines()[-1].startswith("x: unexpected KeyError")


def test_ctrl_c_says_how_to_go_on(capsys):
    def stopped() -> None:
        raise KeyboardInterrupt("Go on with --resume_from_checkpoint last")

    assert run_command("x", stopped, debug=False) == 130
    assert capsys.readouterr().err == "x: Interrupted. Go on with --resume_from_checkpoint last\n"


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"hf-tempbalance {hf_tempbalance.__version__}\n"


def test_weights_that_timm_does_not_have_are_one_line(capsys):
    assert cli.main(["analyze", "resnet18.nope"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]  # libraries may have something to say before
    assert last == "hf-tempbalance: resnet18.nope: timm says Invalid pretrained tag (nope) for resnet18."
