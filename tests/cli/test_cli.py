"""``hf-tempbalance``, the installed command, on files, folders, timm's names and models that a function makes."""

from __future__ import annotations

import csv
import io
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny import ConvNet
from transformers import BertConfig, BertForSequenceClassification

import hf_tempbalance.tasks.backbones  # noqa: F401  registers the *_cifar networks
from hf_tempbalance import TempBalanceConfig, analyze
from hf_tempbalance.cli import main as cli


def command(capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors, in this process."""
    capsys.readouterr()
    code = cli.main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("resnet18_cifar", num_classes=100, width_factor=0.25)


@pytest.fixture(scope="module")
def file(network, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_file(network.state_dict(), path)
    return str(path)


def test_the_installed_command_runs(file):
    executable = Path(sys.executable).with_name("hf-tempbalance")
    done = subprocess.run([executable, "analyze", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:4] == ["name", "layer_type", "N", "M"]
    assert "\x1b" not in done.stdout and "│" not in done.stdout  # piped: plain text
    assert lines[-1].startswith("21 layers with an exponent (goodness-of-fit): mean alpha")
    help_text = subprocess.run([executable, "--help"], capture_output=True, text=True, check=False)
    assert help_text.returncode == 0 and "analyze" in help_text.stdout


def test_help_loads_neither_torch_nor_anything_heavy():
    code = (
        "import sys\nfrom hf_tempbalance.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(*(m for m in ('torch', 'numpy', 'transformers', 'rich', 'timm', 'matplotlib') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


def test_json_has_the_numbers_of_analyze_for_every_layer(file, network, capsys):
    code, out, _ = command(capsys, "analyze", file, "--json", "--fit", "median")
    assert code == 0
    rows = {row["name"]: row for row in json.loads(out)["layers"]}
    expected = {s.name: s for s in analyze(network, TempBalanceConfig())}
    assert rows.keys() == expected.keys() and len(rows) == 21
    for name, spectrum in expected.items():
        row = rows[name]
        assert (row["alpha"], row["D"]) == pytest.approx((spectrum.alpha, spectrum.D), rel=1e-6)
        assert row["alpha_weighted"] == pytest.approx(spectrum.alpha_hat)
        assert (row["N"], row["M"]) == (max(spectrum.shape[:2]), min(spectrum.shape[:2]))
        assert row["rf"] * row["M"] == row["num_evals"] == spectrum.num_eigenvalues
        assert row["warning"] == "" and row["fit"] == "median"  # the limits are not this fit's


def test_weightwatcher_s_words_are_those_of_its_fit_alone(file, capsys):
    _, out, _ = command(capsys, "analyze", file, "--json")
    rows = json.loads(out)["layers"]
    for row in rows:
        alpha = row["alpha"]
        assert row["warning"] == ("over-trained" if alpha < 2 else "under-trained" if alpha > 6 else "")
    assert any(row["warning"] for row in rows)
    _, out, _ = command(capsys, "analyze", file, "--fit", "median")
    assert "trained" not in out and " below 2" not in out
    assert out.splitlines()[-1].startswith("21 layers with an exponent (median): mean alpha")


def test_csv_sort_and_only(file, tmp_path, capsys):
    target = tmp_path / "layers.csv"
    code, out, _ = command(capsys, "analyze", file, "--csv", str(target), "--sort", "alpha", "--only", "layer1.*")
    assert code == 0 and "layer1.0.conv1" in out and "layer2" not in out
    rows = list(csv.DictReader(io.StringIO(target.read_text())))
    alphas = [float(row["alpha"]) for row in rows]
    assert len(rows) == 4 and alphas == sorted(alphas)
    assert [row["layer_id"] for row in rows] != sorted(row["layer_id"] for row in rows)  # the place in the model stays


def test_a_sharded_folder_of_save_pretrained_is_the_same_as_the_model(tmp_path, capsys):
    torch.manual_seed(0)
    size = {"hidden_size": 64, "num_hidden_layers": 12, "num_attention_heads": 4, "intermediate_size": 96}
    model = BertForSequenceClassification(BertConfig(vocab_size=99, **size))
    model.save_pretrained(tmp_path / "bert", max_shard_size="400kB")
    assert len(list((tmp_path / "bert").glob("*.safetensors"))) > 2
    code, out, _ = command(capsys, "analyze", str(tmp_path / "bert"), "--json")
    assert code == 0
    rows = {row["name"]: row for row in json.loads(out)["layers"]}
    spectra = {s.name: s for s in analyze(model, TempBalanceConfig(fit="goodness-of-fit"))}
    assert rows.keys() == spectra.keys()
    for name, spectrum in spectra.items():
        alpha = rows[name]["alpha"]
        assert alpha is None if math.isnan(spectrum.alpha) else alpha == pytest.approx(spectrum.alpha)
    assert rows["bert.embeddings.word_embeddings"]["excluded_by"] == "embedding"
    names = [row for row in rows if "intermediate" in row]
    assert names.index("bert.encoder.layer.2.intermediate.dense") < names.index(
        "bert.encoder.layer.10.intermediate.dense"
    )


def test_a_name_of_timm_and_a_function_know_which_layer_is_first_and_last(tmp_path, capsys, monkeypatch):
    code, out, _ = command(capsys, "analyze", "test_vit.r160_in1k", "--json")
    rules = {row["name"]: row["excluded_by"] for row in json.loads(out)["layers"]}
    assert code == 0 and rules["patch_embed.proj"] == "first" and rules["head"] == "last"
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    code, out, _ = command(capsys, "analyze", "tiny:ConvNet", "--json")
    assert code == 0
    assert [row["name"] for row in json.loads(out)["layers"]] == [*(f"conv{i}" for i in range(1, 6)), "linear"]


def test_plots_are_one_picture_for_each_layer_and_one_of_all(network, tmp_path, capsys):
    block = {name: tensor for name, tensor in network.state_dict().items() if name.startswith(("layer1.0.", "fc."))}
    save_file(block, tmp_path / "block.safetensors")
    code, _, _ = command(capsys, "analyze", str(tmp_path / "block.safetensors"), "--plots", str(tmp_path / "plots"))
    assert code == 0
    pictures = {path.stem: path.stat().st_size for path in (tmp_path / "plots").glob("*.png")}
    assert pictures.keys() == {"alphas", "layer1.0.conv1", "layer1.0.conv2", "fc"}
    assert min(pictures.values()) > 5000
    some = ["--plots", str(tmp_path / "some"), "--only", "fc"]
    assert command(capsys, "analyze", str(tmp_path / "block.safetensors"), *some)[0] == 0
    assert {path.stem for path in (tmp_path / "some").glob("*.png")} == {"alphas", "fc"}


def test_compare_puts_layers_of_one_name_side_by_side(file, tmp_path, capsys):
    from safetensors.torch import load_file

    tensors = load_file(file)
    tensors["conv1.weight"] = 2 * tensors["conv1.weight"]
    tensors["new.weight"] = torch.randn(64, 64)
    del tensors["fc.weight"]
    other = tmp_path / "other.safetensors"
    save_file(tensors, other)
    code, out, _ = command(capsys, "compare", file, str(other), "--json")
    rows = {row["name"]: row for row in json.loads(out)["layers"]}
    assert code == 0 and len(rows) == 20
    assert rows["conv1"]["spectral_norm B"] == pytest.approx(4 * rows["conv1"]["spectral_norm A"])
    assert rows["conv1"]["difference"] == pytest.approx(0, abs=1e-4)
    assert rows["conv1"]["alpha_relative A"] == pytest.approx(rows["conv1"]["alpha_relative B"], abs=1e-3)
    _, out, _ = command(capsys, "compare", file, str(other))
    assert "only in A: fc" in out and "only in B: new" in out


def broken(folder: Path) -> dict[str, tuple[str, str]]:
    """Argument -> what is said about it."""
    whole = folder / "whole.safetensors"
    save_file(ConvNet().state_dict(), whole)
    (folder / "cut.safetensors").write_bytes(whole.read_bytes()[:5000])
    torch.save(ConvNet().state_dict(), folder / "old.bin")
    (folder / "pickles").mkdir()
    torch.save({}, folder / "pickles" / "pytorch_model.bin")
    (folder / "empty").mkdir()
    (folder / "run" / "checkpoint-2").mkdir(parents=True)
    save_file({"a": torch.zeros(4, 4)}, folder / "run" / "checkpoint-2" / "model.safetensors")
    (folder / "run" / "checkpoint-2" / "trainer_state.json").write_text('{"global_step": 2}')
    save_file({"bias": torch.zeros(4)}, folder / "flat.safetensors")
    (folder / "index.json").write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    (folder / "missing.json").write_text(json.dumps({"weight_map": {"a": "shard-2.safetensors"}}))
    (folder / "other.json").write_text("[]")
    return {
        str(folder / "cut.safetensors"): "is no whole safetensors file",
        str(folder / "old.bin"): "is a pickle, and reading one can run code. Save its weights as safetensors first",
        str(folder / "pickles"): "pytorch_model.bin is a pickle",
        str(folder / "empty"): "has no safetensors file",
        str(folder / "run"): "checkpoint-2",
        str(folder / "flat.safetensors"): "There is nothing to analyse",
        str(folder / "index.json"): "names '../secret.safetensors', which is not a file beside it",
        str(folder / "missing.json"): "names shard-2.safetensors, which is not there",
        str(folder / "other.json"): "is not the index of sharded safetensors files",
        str(folder / "gone.safetensors"): "does not exist",
        "../../nowhere": "does not exist",
        "resnet_of_nobody": "is no file or folder, no name of timm's registry, no Hub id",
        "tiny:Nothing": "can't be called",
        "json:dumps": "can't be called",
        "nobody/has-this-model": "can't be read from the Hub",
    }


def test_what_can_not_be_read_is_one_line_without_a_traceback(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    for argument, message in broken(tmp_path).items():
        code, out, err = command(capsys, "analyze", argument)
        assert (code, out) == (1, ""), argument
        assert err.startswith("hf-tempbalance: ") and message in err and err.count("\n") == 1, (argument, err)
    _, _, err = command(capsys, "analyze", str(tmp_path / "cut.safetensors"), "--debug")
    assert "Traceback" in err


def test_pictures_without_matplotlib_say_what_to_install(file, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "hf_tempbalance.runs.plots", raising=False)
    for name in [name for name in sys.modules if name.startswith("matplotlib.")]:
        monkeypatch.delitem(sys.modules, name)
    code, _, err = command(capsys, "analyze", file, "--plots", str(tmp_path))
    assert code == 1 and "matplotlib is not installed: pip install 'hf_tempbalance[plots]'" in err
    assert err.count("\n") == 1


def test_options_that_match_nothing_and_folders_that_can_not_be_written(file, tmp_path, capsys):
    code, _, err = command(capsys, "analyze", file, "--only", "encoder.*")
    assert code == 1 and "--only 'encoder.*' matches no layer. 'conv1' is one." in err
    (tmp_path / "taken").write_text("")
    code, _, err = command(capsys, "analyze", file, "--plots", str(tmp_path / "taken"))
    assert code == 1 and err.count("\n") == 1 and "taken" in err
    with pytest.raises(SystemExit) as ended:
        cli.main(["analyze", file, "--fit", "best"])
    assert ended.value.code == 2


def test_weightwatcher_s_newer_columns_and_traps_only_when_they_are_asked_for(file, capsys):
    code, out, _ = command(capsys, "analyze", file, "--json", "--fit", "median")
    rows = json.loads(out)["layers"]
    assert code == 0 and "num_traps" not in rows[0]
    row = rows[5]
    assert row["sigma"] == pytest.approx((row["alpha"] - 1) / row["num_pl_spikes"] ** 0.5)
    assert row["num_pl_spikes"] == row["num_evals"] // 2 and 0 < row["num_ERG_spikes"] < row["num_evals"]
    assert row["alpha_relative"] == pytest.approx(1, abs=0.2)  # random weights
    code, out, _ = command(capsys, "analyze", file, "--only", "layer3.*", "--traps")
    assert code == 0 and out.split("\n")[0].split()[-1] == "num_traps"
    code, out, _ = command(capsys, "analyze", file, "--json", "--sort", "num_traps")
    assert code == 0 and all(row["num_traps"] == 0 for row in json.loads(out)["layers"])
