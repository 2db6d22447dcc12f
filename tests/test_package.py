"""What is built of the repository: the wheel holds the package and nothing else, the sdist the repository."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[1]


def test_the_oldest_versions_that_are_tried_are_those_that_setup_cfg_allows():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    required = setup["options"]["install_requires"] + setup["options.extras_require"]["train"]
    allowed = dict(re.findall(r"^([\w-]+)>=([\d.]+)$", required, flags=re.MULTILINE))
    tried = dict(
        re.findall(r"^([\w-]+)==([\d.]+)$", (ROOT / ".github" / "oldest.txt").read_text(), flags=re.MULTILINE)
    )
    assert {"torch", "transformers", "accelerate", "timm"} <= allowed.keys()
    for name, version in allowed.items():
        assert (tried[name] + ".").startswith(version + "."), name


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, Path]:
    """The sdist of a copy of the repository, and the wheel that is made of the sdist, as ``python -m build`` does."""
    folder = tmp_path_factory.mktemp("built")
    aside = shutil.ignore_patterns(".*cache", ".git", ".venv", ".hypothesis", "*.egg-info", "runs", "build", "dist")
    shutil.copytree(ROOT, folder / "repository", ignore=lambda at, names: aside(at, names) if at == str(ROOT) else [])
    sdist = _build("sdist", folder / "repository", folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return {"sdist": sdist, "wheel": _build("wheel", unpacked, folder)}


def _build(kind: str, source: Path, into: Path) -> Path:
    code = f"import sys; from setuptools import build_meta; print(build_meta.build_{kind}(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, into], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return into / done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_the_wheel_holds_the_package_its_templates_and_its_licence(built):
    names = zipfile.ZipFile(built["wheel"]).namelist()
    info = next(name.split("/")[0] for name in names if ".dist-info/" in name)
    assert {name.split("/")[0] for name in names} == {"hf_tempbalance", info}
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "hf_tempbalance").rglob("*.py")}
    templates = {path.relative_to(ROOT).as_posix() for path in (ROOT / "hf_tempbalance/runs/templates").iterdir()}
    assert templates
    expected = package | templates | {"hf_tempbalance/py.typed", "hf_tempbalance/spectra/solvers.json"}
    assert {name for name in names if name.startswith("hf_tempbalance/")} == expected
    assert f"{info}/licenses/LICENSE" in names


@pytest.mark.slow
def test_the_sdist_holds_scripts_configs_pages_and_tests(built):
    with tarfile.open(built["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = {
        "LICENSE",
        "MANIFEST.in",
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        ".ci/run",
        "scripts/train.py",
    }
    expected |= {"configs/quickstart.yaml", "configs/studies/paper_main.yaml", "docs/images/quickstart.png"}
    expected |= {"tests/conftest.py", "tests/tiny.py", "tests/golden/matrices.json", "scripts/install.sh"}
    assert expected - names == set()
    assert [name for name in names if name.endswith(".pyc") or name.startswith((".venv", "runs", ".git/"))] == []


@pytest.mark.slow
def test_the_command_runs_from_the_installed_wheel(built, tmp_path):
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target]
    subprocess.run([*install, built["wheel"]], check=True)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {
        "PYTHONPATH": str(target)
    }
    where = [sys.executable, "-c", "import hf_tempbalance; print(hf_tempbalance.__file__)"]
    done = subprocess.run(where, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).is_relative_to(target)
    command = [target / "bin" / "hf-tempbalance", "--help"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "analyze" in done.stdout
