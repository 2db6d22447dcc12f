"""The tutorial on images, step by step as printed: a folder of images, and a Hub on loopback that has the model."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
from hub_server import HubServer
from PIL import Image
from safetensors.torch import save


ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "recipes" / "image_folder.md").read_text(encoding="utf-8")
NAME = "timm/resnet18.a1_in1k"
# The fields of timm's configurations on the Hub.
IMAGE = {"input_size": [3, 224, 224], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
CONFIG = {
    "architecture": "resnet18",
    "num_classes": 1000,
    "num_features": 512,
    "pretrained_cfg": IMAGE | {"crop_pct": 0.95, "interpolation": "bicubic", "num_classes": 1000},
}


@pytest.mark.slow
def test_every_step_of_the_tutorial(tmp_path):
    random = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 8)):
        for name, shade in (("cat", 40), ("dog", 180)):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(1, count + 1):
                pixels = (random.integers(0, 60, (40, 40, 3)) + shade).astype("uint8")
                Image.fromarray(pixels).save(folder / f"{number}.jpg")
    with HubServer() as hub:
        weights = save(timm.create_model("resnet18").state_dict())
        hub.files[NAME] = {"config.json": json.dumps(CONFIG).encode(), "model.safetensors": weights}
        hub.commits[NAME] = 0

        def run(*command: str) -> str:
            environment = hub.environment(tmp_path / "home")
            done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-3000:]
            return done.stdout

        train, use = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
        run(sys.executable, "-c", train)
        _, look, share = re.findall(r"```(?:bash|text)\n(.*?)```", PAGE, flags=re.DOTALL)
        executables = {
            "hf-tempbalance": str(Path(sys.executable).with_name("hf-tempbalance")),
            "python": sys.executable,
        }
        printed = []
        for line in (look + share).splitlines():
            words = shlex.split(line, comments=True)
            words = [str(ROOT / word) if word.startswith("scripts/") else word for word in words]
            printed.append(run(executables[words[0]], *(word.replace("OWNER/NAME", "me/pets") for word in words[1:])))
        found = run(sys.executable, "-c", use)
    assert (tmp_path / "runs" / "folder" / "tempbalance_report.html").is_file()
    assert "layer4.1.conv2" in printed[1]
    config = json.loads(hub.files["me/pets"]["config.json"])
    assert (config["num_classes"], config["label_names"]) == (2, ["cat", "dog"])
    assert "license: apache-2.0" in hub.files["me/pets"]["README.md"].decode()
    assert "'label': 'cat'" in found and "'label': 'dog'" in found
