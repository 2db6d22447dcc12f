"""TRL's trainers: what docs/compatibility.md says is what happens, and the classes that mix them with ours."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from everywhere.outcome import WORKS, outcome
from everywhere.trl_trainers import TRAINERS, WAYS, check_trainer, make, plain, unavailable
from huggingface_hub import ModelCard


pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of TRL's and PEFT's own
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"


def tried(name: str) -> str:
    if reason := unavailable(name):
        pytest.skip(reason)
    return name


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", TRAINERS)
def test_it_trains_with_the_layers_rates_saves_and_resumes(name, way):
    result = outcome(partial(check_trainer, tried(name), way), partial(plain, name))
    if result.startswith("not tried"):
        pytest.skip(result)
    assert result == WORKS
    assert f"| {name} | works | works |" in DOCUMENT.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", TRAINERS)
def test_a_class_with_trl_s_trainer_in_front_keeps_trl_s_card_and_saves(tmp_path, name):
    import trl

    from hf_tempbalance import TempBalanceTrainer

    mixed = type("Mixed", (getattr(trl, tried(name).partition(" ")[0]), TempBalanceTrainer), {})
    trainer = make(name, mixed, tmp_path)
    trainer.train()
    assert json.loads((tmp_path / "checkpoint-8" / "trainer_state.json").read_text())["global_step"] == 8
    assert "trl" in ModelCard.load(tmp_path / "README.md").data.tags


@pytest.mark.parametrize("name", TRAINERS)
def test_our_card_knows_trl_s_tags_and_data_set_and_an_adapter(tmp_path, name):
    trainer = make(tried(name), "trainer", tmp_path)
    trainer.train()
    trainer.save_model()
    trainer.create_model_card(model_name="net", dataset_name="me/talk", tags=["mine"])
    data = ModelCard.load(tmp_path / "README.md").data
    assert {"tempbalance", "trl", "mine"} <= set(data.tags) and data.datasets == ["me/talk"]
    assert (data.library_name, data.pipeline_tag) == ("peft" if "LoRA" in name else "transformers", "text-generation")
