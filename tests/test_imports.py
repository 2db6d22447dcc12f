"""What loads without what, and that the public names are one list. Which room may import which is in setup.cfg."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import hf_tempbalance


PACKAGE = Path(hf_tempbalance.__file__).parent
ROOMS_WITH_TORCH_ALONE = ("spectra", "balance", "optim")


def modules_of(room: str) -> list[str]:
    found = [f"hf_tempbalance.{room}.{path.stem}" for path in sorted((PACKAGE / room).glob("[a-z]*.py"))]
    assert found
    return [name for name in found if name != "hf_tempbalance.optim.named"]  # timm's optimizers by name


def fresh(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_core_loads_with_torch_and_numpy_alone():
    blocked = [
        "transformers",
        "accelerate",
        "timm",
        "torchvision",
        "datasets",
        "evaluate",
        "matplotlib",
        "rich",
        "yaml",
    ]
    core = ["hf_tempbalance.config", "hf_tempbalance.files", "hf_tempbalance.pruning"]
    modules = ", ".join([*core, *(name for room in ROOMS_WITH_TORCH_ALONE for name in modules_of(room))])
    fresh(f"import sys; sys.modules.update(dict.fromkeys({blocked})); import {modules}")


def test_the_package_itself_loads_nothing():
    loaded = fresh(
        "import sys, hf_tempbalance; print(*(m for m in ('torch', 'numpy', 'transformers') if m in sys.modules))"
    )
    assert loaded == ""


def test_the_core_s_public_names_load_without_transformers():
    code = "import sys; sys.modules['transformers'] = None\nfrom hf_tempbalance import {}"
    fresh(code.format("TempBalanceConfig, TempBalancer, LayerSpectrum, analyze, layer_sparsities, NoEffectWarning"))


def test_public_names_are_one_list():
    block = next(
        node
        for node in ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.If)
    )
    declared = {(alias.name, node.module) for node in block.body for alias in node.names}
    assert declared == set(hf_tempbalance._MODULE_OF.items())
    assert hf_tempbalance.__all__ == sorted(hf_tempbalance._MODULE_OF)
    for name in hf_tempbalance.__all__:
        assert getattr(hf_tempbalance, name).__name__ == name
        assert getattr(hf_tempbalance, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'TempBalence'"):
        _ = hf_tempbalance.TempBalence


@pytest.mark.parametrize("old", hf_tempbalance._MOVED)
def test_an_old_module_s_name_is_refused_with_the_new_one_which_exists(old):
    new = hf_tempbalance._MOVED[old]
    with pytest.raises(ModuleNotFoundError, match=f"hf_tempbalance.{old} is now hf_tempbalance.{new}"):
        importlib.import_module(f"hf_tempbalance.{old}")
    assert PACKAGE.joinpath(*new.split(".")).with_suffix(".py").is_file()
