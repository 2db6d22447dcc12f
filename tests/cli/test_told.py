"""What a command says about where its numbers come from: the weights, the fit, and what is not installed."""

from __future__ import annotations

import configparser
import json
import subprocess
import sys
from pathlib import Path

import pytest
import screens
import torch
from safetensors.torch import save_file

from hf_tempbalance import TempBalanceConfig, analyze
from hf_tempbalance.cli import main as cli
from hf_tempbalance.runs.results import read_results, write_results
from hf_tempbalance.terminal import EXTRAS


ROOT = Path(__file__).resolve().parents[2]
HIDDEN = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hide())
from hf_tempbalance.cli.main import main
sys.exit(main({arguments}))
"""


def command(capsys, *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.main([str(argument) for argument in arguments])
    return (code, *capsys.readouterr())


def without(hidden: set[str], *arguments: str) -> subprocess.CompletedProcess:
    """The command where some packages are not installed."""
    code = HIDDEN.format(hidden=hidden, arguments=[str(argument) for argument in arguments])
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Records and weights of runs: "median" and "farms" are balanced with these fits, "plain" is not."""
    folder = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    for name in ("median", "farms", "plain"):
        screens.run(str(folder / name), 2, names=("fc0", "fc1", "fc2"), plain=name == "plain")
        save_file({f"fc{n}.weight": torch.randn(64, 128) for n in range(3)}, folder / name / "model.safetensors")
    for name in ("median", "plain"):
        screens.run(str(folder / f"{name}-1"), 2, seed=1, names=("fc0", "fc1", "fc2"), plain=name == "plain")
    results = read_results(folder / "farms")
    results["config"]["settings"] = TempBalanceConfig.preset("farms", window_rows=32).to_dict()
    write_results(folder / "farms", results)
    return folder


def test_a_run_s_folder_is_analysed_with_the_run_s_fit_and_rules(runs, capsys):
    code, out, _ = command(capsys, "analyze", runs / "farms", "--json")
    found = json.loads(out)
    config = TempBalanceConfig.preset("farms", window_rows=32)
    model = torch.nn.Sequential(*(torch.nn.Linear(128, 64, bias=False) for _ in range(3)))
    torch.nn.Module.load_state_dict(model, weights_of(runs / "farms"))
    assert code == 0 and found["settings"]["fit"] == config.fit
    assert [row["alpha"] for row in found["layers"]] == pytest.approx([s.alpha for s in analyze(model, config)])
    assert [row["excluded_by"] for row in found["layers"]] == ["first", "", "last"]
    _, out, _ = command(capsys, "analyze", runs / "farms")
    assert f"({config.fit}, windows of 32 rows, the run's own)" in out.splitlines()[-1]
    _, out, _ = command(capsys, "analyze", runs / "farms", "--fit", "median")
    assert "(median): mean alpha" in out.splitlines()[-1]
    _, out, _ = command(capsys, "analyze", runs / "plain")
    assert "(goodness-of-fit): mean alpha" in out.splitlines()[-1]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {f"{key[2]}.weight": tensor for key, tensor in load_file(folder / "model.safetensors").items()}


def test_a_comparison_has_one_fit(runs, capsys):
    _, out, _ = command(capsys, "compare", runs / "plain", runs / "median")
    assert "(median, the run's own)" in out
    code, out, err = command(capsys, "compare", runs / "farms", runs / "median")
    assert (code, out) == (1, "") and "their exponents are no comparison. Say --fit" in err and err.count("\n") == 1
    code, out, _ = command(capsys, "compare", runs / "farms", runs / "median", "--fit", "fix-finger", "--json")
    found = json.loads(out)
    assert code == 0 and found["settings"]["fit"] == "fix-finger" == found["layers"][0]["fit"]


def test_a_name_of_timm_has_random_weights_which_are_said_and_the_same_each_time(capsys):
    code, first, _ = command(capsys, "analyze", "test_vit", "--fit", "median")
    before = torch.get_rng_state()
    _, second, _ = command(capsys, "analyze", "test_vit", "--fit", "median")
    assert code == 0 and first == second and torch.equal(torch.get_rng_state(), before)
    assert first.splitlines()[-1] == "test_vit: random weights (seed 0). --pretrained takes timm's."
    _, out, _ = command(capsys, "compare", "test_vit", "test_vit", "--fit", "median")
    assert "A: test_vit, random weights (seed 0)" in out


def test_pretrained_weights_that_can_not_be_had_are_one_sentence(tmp_path, capsys):
    code, out, err = command(capsys, "analyze", "resnet18", "--pretrained")  # tests have no network
    assert (code, out) == (1, "") and err.count("\n") == 1
    assert err.startswith("hf-tempbalance: timm's weights of resnet18 can't be downloaded")
    save_file({"fc.weight": torch.randn(8, 8)}, tmp_path / "net.safetensors")
    for name in (tmp_path / "net.safetensors", "owner/name", "module:factory"):
        code, _, err = command(capsys, "analyze", name, "--pretrained")
        assert code == 1 and "--pretrained is for a name of timm" in err


def test_every_package_of_an_extra_is_told_with_the_extra_that_has_it():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    names = {"sklearn": "scikit-learn"}
    for module, extra in EXTRAS.items():
        wanted = [line.partition(">")[0] for line in setup["options.extras_require"][extra].split()]
        assert names.get(module, module) in wanted


@pytest.mark.parametrize(
    ("hidden", "arguments", "said"),
    [
        ({"jinja2"}, ["report", "RUNS/median"], "jinja2 is not installed: pip install 'hf_tempbalance[plots]'"),
        pytest.param(
            {"jinja2", "matplotlib", "scipy"},
            ["report", "RUNS"],
            "is not installed: pip install 'hf_tempbalance[plots]'",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"scipy"},
            ["compare-runs", "RUNS/plain", "RUNS/plain-1", "--with", "RUNS/median", "RUNS/median-1"],
            "scipy is not installed: pip install 'hf_tempbalance[plots]'",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"jinja2"},
            ["compare-runs", "RUNS/plain", "--with", "RUNS/median", "--output", "page.html"],
            "jinja2 is not installed: pip install 'hf_tempbalance[plots]'",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"matplotlib"},
            ["analyze", "RUNS/plain", "--plots", "plots"],
            "matplotlib is not installed: pip install 'hf_tempbalance[plots]'",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"timm"},
            ["analyze", "resnet18"],
            "If it is a name of timm: timm is not installed: pip install 'hf_tempbalance[train]'",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"timm"},
            ["sparsities", "resnet18", "--sparsity", "0.5"],
            "If it is a name of timm: timm is not installed: pip install 'hf_tempbalance[train]'",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_without_an_extra_one_sentence_names_it(runs, hidden, arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = without(hidden, *(argument.replace("RUNS", str(runs)) for argument in arguments))
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and last.startswith("hf-tempbalance: ") and last.endswith(said), done.stderr
    assert "Traceback" not in done.stderr
