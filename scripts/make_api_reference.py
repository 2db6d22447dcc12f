"""Write docs/api.md: the public names with their signatures and docstrings, read from the source by griffe2md.

python scripts/make_api_reference.py            # writes the page
python scripts/make_api_reference.py --check    # says whether it is the one that would be written
"""

from __future__ import annotations

import argparse
import logging
import re
from dataclasses import fields
from pathlib import Path

from hf_tempbalance.config import TempBalanceConfig
from hf_tempbalance.huggingface.parser import run
from hf_tempbalance.presets import PRESETS


ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "api.md"
# Heading -> names. What is not imported from the top of the package is used as `hf_tempbalance.module.name`.
SECTIONS = {
    "Ways in": [
        "huggingface.callback.TempBalanceCallback",
        "huggingface.trainer.TempBalanceTrainer",
        "huggingface.training_args.TempBalanceTrainingArguments",
        "balance.balancer.TempBalancer",
    ],
    "Settings": ["config.TempBalanceConfig", "presets.Preset"],
    "Looking at weights": [
        "spectra.analysis.analyze",
        "spectra.spectrum.LayerSpectrum",
        "spectra.analysis.analyze_weights",
        "cli.sources.open_source",
    ],
    "Pruning": ["pruning.layer_sparsities", "pruning.prune_by_magnitude"],
    "Runs and pictures": [
        "runs.history.read_history",
        "runs.run.read_run",
        "runs.run.Run",
        "runs.report.write_report",
        "runs.modelcard.write_model_card",
        "runs.plots.plot_spectrum",
        "runs.plots.plot_alphas",
        "runs.plots.plot_layers",
        "runs.plots.plot_history",
        "runs.plots.plot_rates",
        "runs.plots.plot_curves",
        "runs.plots.limits",
        "runs.roles.role_of",
        "runs.roles.short_names",
    ],
    "Optimizers": ["optim.sgd_snr.SGDSNR"],
    "Networks and data": ["tasks.backbones.create_image_classifier", "tasks.data.load_images", "tasks.data.collate"],
}
OPTIONS = {
    "heading_level": 3,
    "show_root_full_path": False,
    "show_object_full_path": False,
    "show_if_no_docstring": False,
    "show_signature_annotations": True,
    "separate_signature": True,
    "summary": False,
    "filters": ["!^_", "!^on_"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args()
    page = render()
    if not options.check:
        PAGE.write_text(page, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page:
        raise ValueError("docs/api.md is not what the docstrings say. Run `python scripts/make_api_reference.py`.")


def render() -> str:
    from griffe import GriffeLoader, Parser
    from griffe2md import render_object_docs

    import hf_tempbalance

    logging.getLogger("griffe").setLevel(logging.ERROR)  # it warns of *args in a docstring
    package = GriffeLoader(docstring_parser=Parser.google, search_paths=[str(ROOT)]).load("hf_tempbalance")
    parts = ["# API reference", "Made from the docstrings by `python scripts/make_api_reference.py`."]
    for heading, names in SECTIONS.items():
        parts.append(f"## {heading}")
        for name in names:
            module, _, short = name.rpartition(".")
            where = "hf_tempbalance" if short in hf_tempbalance.__all__ else f"hf_tempbalance.{module}"
            text = render_object_docs(package[name], OPTIONS)
            first, _, rest = plain(text).partition("\n")
            parts.append(f"{first}\n\n`from {where} import {short}`\n{rest.rstrip()}")
            if short == "TempBalanceConfig":
                parts.append(option_table())
            if short == "Preset":
                parts.append(preset_table())
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """Without links, which would lead to names that this page does not have, and with examples as code."""
    text = re.sub(r"\[(\*{0,2}[^\]\n]+)\]\(#[^)\n]+\)", r"\1", text)
    text = re.sub(r"</?code>", "`", text)
    text = re.sub(r"(?<!`)``(?!`)", "`", text)  # reStructuredText's marks of code
    text = re.sub(r"^(#+ `)hf_tempbalance\.[a-z_.]*", r"\1", text, flags=re.M)
    example = r"<details[^>]*>\n<summary>(.*?)</summary>\n+(.*?)\n+</details>"
    text = re.sub(example, r"**\1:**\n\n```python\n\2\n```", text, flags=re.S)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def option_table() -> str:
    """The options of the configuration, from the help texts of its fields."""
    rows = ["| option | default | meaning |", "| --- | --- | --- |"]
    rows += [f"| `{f.name}` | `{f.default!r}` | {f.metadata['help']} |" for f in fields(TempBalanceConfig)]
    return "\n".join(rows)


def preset_table() -> str:
    """The presets; their settings are on the cards, which a test holds against them."""
    rows = ["### `PRESETS`", "", "`from hf_tempbalance.presets import PRESETS`", "", "Name -> `Preset`:", ""]
    rows += ["| name | what | source |", "| --- | --- | --- |"]
    rows += [f"| [`{name}`](methods/{name}.md) | {p.what} | {p.source} |" for name, p in PRESETS.items()]
    return "\n".join(rows)


if __name__ == "__main__":
    run(main)
