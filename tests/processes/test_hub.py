"""Sharing a model: a real run, the real huggingface_hub client in fresh processes, and a Hub on loopback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from forked import run_directly
from hub_server import TOKEN, HubServer
from safetensors.torch import load

from hf_tempbalance import TempBalanceTrainingArguments


pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
SHORT = ["--num_train_epochs", "1", "--max_train_samples", "160", "--max_test_samples", "80"]
OWN = ["--architecture", "resnet18_cifar", "--width_factor", "0.125"]
TIMM = ["--architecture", "resnet18", "--model_args", '{"in_chans": 3, "channels": [16, 16, 64, 64]}']
# What a user without this package has: importing it fails.
WITHOUT = "import sys; sys.modules['hf_tempbalance'] = None\n"
CLASSIFY = """
from PIL import Image
from transformers import pipeline
classify = pipeline("image-classification", model={repo!r}{trust})
found = classify(Image.new("RGB", (32, 32), (200, 60, 30)), top_k=10)
print({{entry["label"]: entry["score"] for entry in found}})
"""


def start(hub: HubServer, home: Path, *command: str, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
    environment = hub.environment(home, token)
    return subprocess.run(
        [sys.executable, *command], env=environment, cwd=home.parent, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def pushed(hub, tmp_path_factory) -> tuple[Path, str]:
    """A run of scripts/train.py that put itself on the Hub, and all that it printed."""
    folder = tmp_path_factory.mktemp("own")
    hub_flags = ["--push_to_hub", "true", "--hub_model_id", "me/own-net", "--hub_token", TOKEN]
    train = [str(ROOT / "scripts" / "train.py"), "--tempbalance", "true", "--output_dir", str(folder / "run")]
    done = start(hub, folder / "home", *train, *OWN, *SHORT, *hub_flags, token=None)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "run", done.stdout + done.stderr


@pytest.fixture(scope="module")
def shared(hub, tmp_path_factory) -> Path:
    """A run of a timm architecture that scripts/push_to_hub.py has uploaded afterwards."""
    folder = tmp_path_factory.mktemp("timm")
    train = [str(ROOT / "scripts" / "train.py"), "--tempbalance", "true", "--output_dir", str(folder / "run")]
    done = start(hub, folder / "home", *train, *TIMM, *SHORT, token=None)
    assert done.returncode == 0, done.stderr[-3000:]
    push = [str(ROOT / "scripts" / "push_to_hub.py"), str(folder / "run"), "me/timm-net", "--license", "mit"]
    done = start(hub, folder / "home", *push)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == f"{hub.endpoint}/me/timm-net"
    return folder / "run"


def card_of(hub: HubServer, repo: str) -> tuple[dict, str]:
    _, metadata, text = hub.files[repo]["README.md"].decode().split("---\n", 2)
    return yaml.safe_load(metadata), text


def test_a_pushed_run_has_model_card_pictures_and_history(hub, pushed):
    files = hub.files["me/own-net"]
    assert {"config.json", "model.safetensors", "README.md", "tempbalance_history.jsonl"} <= files.keys()
    assert {"backbones.py", "preprocessor_config.json", "plots/tempbalance_layers.png"} <= files.keys()
    assert not [name for name in files if name.startswith("checkpoint-")]
    looks = [json.loads(line) for line in files["tempbalance_history.jsonl"].splitlines()]
    assert [look["epoch"] for look in looks] == [0.0, 1.0]
    assert files["plots/tempbalance_layers.png"].startswith(b"\x89PNG")
    assert load(files["model.safetensors"])["backbone.conv1.weight"].shape == (8, 3, 3, 3)


def test_the_card_says_what_was_trained_how_well_and_how_to_load_it(hub, pushed):
    metadata, text = card_of(hub, "me/own-net")
    results = json.loads((pushed[0] / "results.json").read_text())
    accuracy = results["epochs"][-1]["eval_accuracy"]
    assert metadata["library_name"] == "transformers" and metadata["pipeline_tag"] == "image-classification"
    assert {"tempbalance", "generated_from_trainer"} <= set(metadata["tags"])
    assert "base_model" not in metadata  # from scratch
    (index,) = metadata["model-index"]
    assert index["name"] == "own-net"
    (result,) = index["results"]
    assert result["task"]["type"] == "image-classification" and result["dataset"]["name"] == "digits"
    (metric,) = result["metrics"]
    assert (metric["type"], metric["value"]) == ("accuracy", accuracy)
    assert f"| accuracy | {accuracy:.4g} | 1 |" in text
    assert 'model = pipeline("image-classification", model="me/own-net", trust_remote_code=True)' in text
    assert "min_ratio: 0.5" in text and "](plots/tempbalance_layers.png)" in text
    assert "| learning rate | 0.1 |" in text and "an unknown dataset" not in text


def test_the_script_uploads_what_a_user_of_the_model_needs_and_nothing_else(hub, shared):
    files = set(hub.files["me/timm-net"])
    expected = {"config.json", "model.safetensors", "README.md", "tempbalance_history.jsonl"}
    assert files == expected | {"plots/tempbalance_layers.png"}
    metadata, text = card_of(hub, "me/timm-net")
    assert metadata["license"] == "mit" and "tempbalance" in metadata["tags"]
    assert metadata["model-index"][0]["results"][0]["metrics"][0]["type"] == "accuracy"
    assert "trust_remote_code" not in text
    assert str(shared.parent) not in text


def classes(hub: HubServer, home: Path, repo: str, *, before: str = "", trust: bool = False):
    code = before + CLASSIFY.format(repo=repo, trust=", trust_remote_code=True" if trust else "")
    done = start(hub, home, "-c", code, token=None)
    return done, json.loads(done.stdout.splitlines()[-1].replace("'", '"')) if done.returncode == 0 else None


def local_scores(folder: Path) -> dict[str, float]:
    from PIL import Image
    from transformers import pipeline

    import hf_tempbalance.tasks.backbones  # noqa: F401  registers the network

    found = pipeline("image-classification", model=str(folder))(Image.new("RGB", (32, 32), (200, 60, 30)), top_k=10)
    return {entry["label"]: entry["score"] for entry in found}


@pytest.mark.parametrize(
    ("before", "trust"),
    [
        pytest.param(WITHOUT, True, id="without this package, with the repository's code"),
        pytest.param("import hf_tempbalance.tasks.backbones\n", False, id="with this package"),
    ],
)
def test_our_networks_load_from_the_hub_in_a_fresh_process(hub, pushed, tmp_path, before, trust):
    done, scores = classes(hub, tmp_path / "home", "me/own-net", before=before, trust=trust)
    assert done.returncode == 0, done.stderr[-3000:]
    assert scores == pytest.approx(local_scores(pushed[0]), rel=1e-4)


def test_our_networks_without_package_and_permission_say_what_to_do(hub, pushed, tmp_path):
    done, _ = classes(hub, tmp_path / "home", "me/own-net", before=WITHOUT)
    assert done.returncode != 0 and "trust_remote_code=True" in done.stderr.splitlines()[-1]


def test_a_timm_architecture_loads_from_the_hub_for_everybody(hub, shared, tmp_path):
    done, scores = classes(hub, tmp_path / "home", "me/timm-net", before=WITHOUT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert scores == pytest.approx(local_scores(shared), rel=1e-4)


def test_a_second_push_sends_only_what_changed(hub, shared):
    before = dict(hub.files["me/timm-net"])
    push = [str(ROOT / "scripts" / "push_to_hub.py"), str(shared), "me/timm-net", "--license", "apache-2.0"]
    assert start(hub, shared.parent / "home", *push).returncode == 0
    after = hub.files["me/timm-net"]
    assert {name for name in after if after[name] != before.get(name)} == {"README.md"}


def test_every_write_carries_the_token_and_nothing_else_shows_it(hub, pushed, shared):
    writes = [(path, auth) for method, path, auth in hub.requests if method == "POST" and "validate" not in path]
    assert writes and {auth for _, auth in writes} == {f"Bearer {TOKEN}"}
    folder, printed = pushed
    assert TOKEN not in printed
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert [str(path) for path in written if TOKEN.encode() in path.read_bytes()] == []
    assert [name for name, content in hub.files["me/own-net"].items() if TOKEN.encode() in content] == []
    arguments = torch.load(folder / "training_args.bin", weights_only=False)
    assert isinstance(arguments, TempBalanceTrainingArguments) and arguments.hub_token is None


def says(code: int, printed: str, message: str) -> None:
    last = printed.splitlines()[-1]
    assert code == 1 and last.startswith("push_to_hub.py: ") and message in last, last
    assert "Traceback" not in printed and "hf_wrong" not in printed and TOKEN not in printed


def test_what_goes_wrong_is_one_line_without_the_token(hub, shared, tmp_path, monkeypatch):
    script, home = str(ROOT / "scripts" / "push_to_hub.py"), tmp_path / "home"
    (tmp_path / "empty").mkdir()
    (tmp_path / "unsaved").mkdir()
    (tmp_path / "unsaved" / "tempbalance_history.jsonl").write_text(
        '{"step": 0, "epoch": 0.0, "seconds": 0.1, "layers": [{"name": "fc", "kind": "linear", "excluded_by": null, '
        '"num_eigenvalues": 64, "alpha": 2.5, "D": 0.1, "stable_rank": 9.0, "multiplier": 1.0}]}\n'
    )
    before_any_hub = [
        ([str(shared), "../secrets"], "'../secrets'"),
        ([str(shared), "no-owner"], "repo_id='no-owner' is not owner/name."),
        ([str(tmp_path / "gone"), "me/net"], "is no folder"),
        ([str(tmp_path / "empty"), "me/net"], "it is not the output folder of a run"),
        ([str(tmp_path / "unsaved"), "me/net"], "has no safetensors file. Call trainer.save_model() first."),
    ]
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for arguments, message in before_any_hub:
        done = run_directly(tmp_path, script, *arguments)
        says(done.code, done.err, message)
    by_the_hub = [
        (None, "Run `hf auth login` with a token that may write there, or set HF_TOKEN."),
        ("hf_wrong", "The Hub refused me/net (status 401)"),
    ]
    for token, message in by_the_hub:
        done = start(hub, home, script, str(shared), "me/net", token=token)
        says(done.returncode, done.stderr, message)
    with HubServer() as gone:
        pass
    last = start(gone, home, script, str(shared), "me/net").stderr.splitlines()[-1]
    assert f"{gone.endpoint} can't be reached" in last and TOKEN not in last
    hub.refuse = 403
    try:
        last = start(hub, home, script, str(shared), "me/net").stderr.splitlines()[-1]
        assert "The Hub refused me/net (status 403)" in last and TOKEN not in last
    finally:
        hub.refuse = None
    assert "me/net" not in hub.files
