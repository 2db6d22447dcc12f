"""What a GPU day finds: the machine, the packages it lacks, the data sets that lie beside the tree.

``python -m gpu.machine DEVICE`` prints the machine as JSON. It is a process of its own, so that nobody holds GPU
memory while others measure, and a driver that hangs is noticed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any


ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
PATIENCE = 180  # seconds for torch and CUDA to start

# Module -> name at the package registry, of what the stages import; the second table is needed by single parts only.
PACKAGES = {name: name for name in ("torch", "numpy", "transformers", "accelerate", "rich", "timm", "torchvision")}
PACKAGES |= {"datasets": "datasets", "dill": "dill", "multiprocess": "multiprocess", "xxhash": "xxhash"}
PACKAGES |= {"pyarrow": "pyarrow", "pandas": "pandas", "evaluate": "evaluate", "sklearn": "scikit-learn"}
PACKAGES |= {"scipy": "scipy", "yaml": "pyyaml"}
OF_PARTS = {"bitsandbytes": "bitsandbytes", "deepspeed": "deepspeed", "hjson": "hjson", "pydantic": "pydantic"}
OF_PARTS |= {"pydantic_core": "pydantic-core", "annotated_types": "annotated-types", "cpuinfo": "py-cpuinfo"}


def machine_of(device: str, environment: dict[str, str]) -> dict[str, Any]:
    """The machine as JSON types: device, memory, versions.

    Raises:
        ValueError: torch is not there, sees no CUDA device, or has not answered in three minutes.
    """
    command = [sys.executable, "-m", "gpu.machine", device]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, check=False, timeout=PATIENCE, cwd=SCRIPTS
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"torch has not found the device {device!r} in {PATIENCE} s: the driver hangs.") from error
    if done.returncode:
        raise ValueError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "torch died without a word.")
    return json.loads(done.stdout.splitlines()[-1])


def describe(device: str) -> dict[str, Any]:
    """The same, in the process that starts CUDA."""
    import torch

    found: dict[str, Any] = {"device": "cpu", "gpus": 0, "memory": None}
    if device == "cuda":
        if not torch.cuda.is_available():
            raise SystemExit(
                f"torch {torch.__version__} sees no CUDA device. Stages are measured on a GPU; "
                "--device cpu --tiny shows that all of them run."
            )
        found = {
            "device": torch.cuda.get_device_name(),
            "gpus": torch.cuda.device_count(),
            "memory": round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1),
            "free": round(torch.cuda.mem_get_info()[0] / 1e9, 1),
            "cuda": torch.version.cuda,
            "driver": _driver(),
        }
    versions = {name: _version(name) for name in ("torch", "transformers", "accelerate", "numpy", "timm", "datasets")}
    return found | {
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "versions": {"python": platform.python_version()} | {k: v for k, v in versions.items() if v is not None},
    }


def kind_of(machine: dict[str, Any], *, tiny: bool) -> str:
    """Name of the folder of this kind of machine: results of another kind are never mixed with them."""
    name = re.sub(r"[^a-z0-9]+", "-", machine["device"].lower()).strip("-")
    return f"{name}-tiny" if tiny else name


def missing(names: dict[str, str], site: Path) -> list[str]:
    """Names at the registry of the modules that neither this Python nor the folder of installed wheels has."""

    def is_there(module: str) -> bool:
        brought = (site / module).exists() or (site / f"{module}.py").exists()
        return brought or importlib.util.find_spec(module) is not None

    return [package for module, package in names.items() if not is_there(module)]


def what_is_missing(site: Path) -> str:
    """The first line of the output."""
    needed, of_parts = missing(PACKAGES, site), missing(OF_PARTS, site)
    if not needed and not of_parts:
        return "Nothing is missing."
    parts = [f"Missing: {', '.join(needed)}."] if needed else ["Nothing that all need is missing."]
    parts += [f"Missing for single parts: {', '.join(of_parts)}."] if of_parts else []
    names = [name for name in (*needed, *of_parts) if name != "deepspeed"]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    bring = []
    if names:
        download = f"pip download --no-deps --only-binary=:all: --python-version {python} -d wheels"
        bring.append(f"{download} {' '.join(names)}")
    if "deepspeed" in of_parts:  # which has no wheel of its own
        bring.append("pip wheel --no-deps --no-build-isolation -w wheels deepspeed")
    return " ".join([*parts, f"Where there is a network: {' and '.join(bring)}; here: --wheels wheels."])


def install(wheels: Path, site: Path) -> None:
    """Install every wheel of a folder into another folder, which goes in front of PYTHONPATH.

    Raises:
        ValueError: the folder has none, or pip refuses; the message has pip's last line.
    """
    archives = sorted(map(str, wheels.glob("*.whl")))
    if not archives:
        raise ValueError(f"--wheels {wheels}: no *.whl is there.")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    command += ["--upgrade", "--disable-pip-version-check", "--target", str(site), *archives]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ValueError(f"--wheels {wheels}: pip can't install them: {lines[-1]}")


def data_folder(named: Path | None) -> Path | None:
    """The folder of the data sets: the named one, or shared/data in the tree or beside it.

    Raises:
        ValueError: the named one is not there.
    """
    if named is not None:
        if not named.is_dir():
            raise ValueError(f"--data {named} is not a folder.")
        return named.resolve()
    places = (ROOT / "shared" / "data", ROOT.parent / "shared" / "data")
    return next((place.resolve() for place in places if place.is_dir()), None)


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None


if __name__ == "__main__":
    print(json.dumps(describe(sys.argv[1])))
