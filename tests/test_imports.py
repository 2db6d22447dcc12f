"""What may import what, what loads without what, and how long files and functions may get."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hf_tempbalance


PACKAGE = Path(hf_tempbalance.__file__).parent
# Module -> modules of ours that it may import. Side rooms import none; parser takes one function of config.
MAY_IMPORT = {
    "config": set(),
    "weights": set(),
    "distributed": set(),
    "cores": set(),
    "spectra": {"cores"},
    "unchanged": {"weights"},
    "layer_groups": set(),
    "param_groups": set(),
    "history": set(),
    "checkpoints": set(),
    "powerlaw": {"config"},
    "layers": {"config", "weights"},
    "mapping": {"config"},
    "analysis": {"config", "layers", "powerlaw", "spectra", "weights"},
    "look": {"analysis", "config", "distributed", "history", "unchanged", "weights"},
    "balancer": {
        "analysis",
        "config",
        "distributed",
        "layers",
        "look",
        "mapping",
        "param_groups",
        "unchanged",
        "weights",
    },
    "optim.sgd_snr": set(),
    "scalars": {"analysis"},
    "training_args": {"scalars"},
    "callback": {"analysis", "balancer", "config", "distributed", "history", "look", "scalars"},
    "modelcard": {"history", "plots", "runs", "trainer"},  # the Trainer's type alone
    "trainer": {
        "modelcard",
        "balancer",
        "callback",
        "checkpoints",
        "config",
        "layer_groups",
        "layers",
        "param_groups",
        "training_args",
    },
    "backbones": set(),
    "data": set(),
    "metrics": set(),
    "parser": {"config"},
    "plots": {"history"},
    "optim.named": {"optim.sgd_snr"},
    "results": {"analysis", "checkpoints", "history"},
    "image_classification": {
        "backbones",
        "config",
        "data",
        "metrics",
        "optim.named",
        "trainer",
        "training_args",
    },
    "sources": {"weights", ""},  # `from . import backbones`, which registers its networks
    "runs": {"checkpoints", "history", "results"},
    "report": {"", "plots", "runs"},
    "cli": {"analysis", "config", "plots", "report", "runs", "sources"},
    "study.plan": {"config"},
    "study.runner": {"checkpoints", "results", "study.plan"},
    "study.cost": {"data", "image_classification", "training_args"},
    "study.statistics": set(),
    "study.collect": {"results", "study.plan", "study.runner"},
    "study.report": {"study.collect", "study.statistics"},
    "study.pictures": {"history", "plots", "study.collect", "study.runner", "study.statistics"},
    "study.publish": {"history", "results", "study.collect", "study.runner"},
}
CORE = [
    "config",
    "weights",
    "distributed",
    "cores",
    "spectra",
    "unchanged",
    "powerlaw",
    "layers",
    "mapping",
    "analysis",
    "look",
    "param_groups",
    "layer_groups",
    "history",
    "balancer",
    "scalars",
    "optim.sgd_snr",
]
LONGEST_FILE = {"backbones": 450, "data": 380, "plots": 350}


def tree(module: str) -> ast.Module:
    return ast.parse(file_of(module).read_text(encoding="utf-8"))


def file_of(module: str) -> Path:
    return PACKAGE.joinpath(*module.split(".")).with_suffix(".py")


def test_every_module_is_in_the_table():
    files = {path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py") if path.stem != "__init__"}
    assert {".".join(file.parts) for file in files} == set(MAY_IMPORT)


@pytest.mark.parametrize("module", MAY_IMPORT)
def test_imports_go_one_way(module):
    imported = set()
    folder = module.rpartition(".")[0]
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom):
            name = node.module or ""
            if node.level:
                imported.add(f"{folder}.{name}" if folder and node.level == 1 else name)
            elif name.split(".")[0] == "hf_tempbalance":
                imported.add(name.removeprefix("hf_tempbalance").strip(".").split(".")[0])
        elif isinstance(node, ast.Import):
            imported |= {a.name.split(".")[1] for a in node.names if a.name.startswith("hf_tempbalance.")}
    assert imported <= MAY_IMPORT[module]


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
    modules = ", ".join(f"hf_tempbalance.{module}" for module in CORE)
    fresh(f"import sys; sys.modules.update(dict.fromkeys({blocked})); import {modules}")


def test_the_package_itself_loads_nothing():
    loaded = fresh(
        "import sys, hf_tempbalance; print(*(m for m in ('torch', 'numpy', 'transformers') if m in sys.modules))"
    )
    assert loaded == ""


def test_the_core_s_public_names_load_without_transformers():
    code = "import sys; sys.modules['transformers'] = None\nfrom hf_tempbalance import {}"
    fresh(code.format("TempBalanceConfig, TempBalancer, LayerSpectrum, analyze, NoEffectWarning"))


def test_public_names_are_one_list():
    block = next(node for node in tree("__init__").body if isinstance(node, ast.If))
    declared = {(alias.name, node.module) for node in block.body for alias in node.names}
    assert declared == set(hf_tempbalance._MODULE_OF.items())
    assert hf_tempbalance.__all__ == sorted(hf_tempbalance._MODULE_OF)
    for name in hf_tempbalance.__all__:
        assert getattr(hf_tempbalance, name).__name__ == name
        assert getattr(hf_tempbalance, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'TempBalence'"):
        _ = hf_tempbalance.TempBalence


@pytest.mark.parametrize("module", MAY_IMPORT)
def test_files_and_functions_stay_short(module):
    source = file_of(module).read_text(encoding="utf-8")
    assert len(source.splitlines()) <= LONGEST_FILE.get(module, 300)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            first = node.body[1] if ast.get_docstring(node) is not None and len(node.body) > 1 else node.body[0]
            assert node.end_lineno - first.lineno < 50, node.name


# Their meaning is that of the class or library whose method they replace.
INHERITED = ("on_", "forward", "get_classifier", "reset_classifier")


@pytest.mark.parametrize("module", MAY_IMPORT)
def test_public_functions_classes_and_methods_have_a_docstring(module):
    definitions = [node for node in tree(module).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    for kind in [node for node in definitions if isinstance(node, ast.ClassDef)]:
        definitions += [node for node in kind.body if isinstance(node, ast.FunctionDef)]
    public = [node for node in definitions if not node.name.startswith(("_", *INHERITED))]
    assert [node.name for node in public if not ast.get_docstring(node)] == []


@pytest.mark.parametrize("module", MAY_IMPORT)
def test_every_module_says_what_it_is_for(module):
    assert ast.get_docstring(tree(module))
