from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import yaml

from hf_tempbalance import TempBalanceConfig, TempBalanceTrainingArguments
from hf_tempbalance.huggingface.parser import ConfigArgumentParser


ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
TRAIN = runpy.run_path(str(ROOT / "scripts" / "train.py"), run_name="train")
# The paper's cells: data set and network -> rate of SGD, rate of TempBalance, ratios.
CELLS = {
    "cifar100_resnet18": (0.1, 0.1, 0.5, 1.5),
    "cifar100_resnet34": (0.05, 0.1, 0.5, 1.5),
    "cifar100_vgg16": (0.05, 0.05, 0.5, 1.5),
    "cifar100_vgg19": (0.05, 0.05, 0.5, 1.5),
    "tinyimagenet_resnet18": (0.1, 0.1, 0.6, 1.4),
    "tinyimagenet_resnet34": (0.1, 0.1, 0.6, 1.4),
    "tinyimagenet_wrn16_8": (0.1, 0.1, 0.6, 1.4),
    "tinyimagenet_wrn28_6": (0.05, 0.1, 0.6, 1.4),
    "cifar10_resnet18": (0.1, 0.1, 0.5, 1.5),
    "cifar10_vgg16": (0.1, 0.05, 0.5, 1.5),
    "svhn_resnet18": (0.1, 0.1, 0.5, 1.5),
    "svhn_vgg16": (0.05, 0.05, 0.5, 1.5),
}


def parse(*argv: str):
    parser = ConfigArgumentParser((TRAIN["RunArguments"], TempBalanceConfig, TempBalanceTrainingArguments))
    parser.set_defaults(**TRAIN["RECIPE"])
    return parser.parse(argv)


def test_every_cell_of_the_paper_has_both_methods_and_there_is_nothing_else():
    names = {f"{cell}_{method}" for cell in CELLS for method in ("sgd", "tempbalance")}
    assert {path.stem for path in CONFIGS} == names | {"quickstart"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_loads_through_the_script_s_parser(path):
    options, _, args = parse("--config", str(path))
    written = yaml.safe_load(path.read_text())
    assert options.architecture == written["architecture"] and args.learning_rate == written["learning_rate"]
    assert isinstance(written["learning_rate"], float)


@pytest.mark.parametrize("cell", CELLS)
def test_the_settings_are_the_paper_s_and_a_pair_differs_in_the_method_alone(cell):
    sgd_rate, rate, low, high = CELLS[cell]
    (plain, _, sgd), (options, settings, args) = (
        parse("--config", str(ROOT / "configs" / f"{cell}_{method}.yaml")) for method in ("sgd", "tempbalance")
    )
    assert (plain.tempbalance, options.tempbalance) == (False, True)
    assert (sgd.learning_rate, args.learning_rate) == (sgd_rate, rate)
    assert settings == TempBalanceConfig(min_ratio=low, max_ratio=high)
    for one in (sgd, args):
        assert (one.num_train_epochs, one.per_device_train_batch_size, one.weight_decay) == (200, 128, 5e-4)
        assert (one.optim, one.optim_args, one.max_grad_norm) == ("sgd", "momentum=0.9", 0)
        assert (one.lr_scheduler_type, one.scheduler_unit, one.weight_decay_on_all) == ("cosine", "epoch", True)
    differing = {key for key, value in vars(plain).items() if value != getattr(options, key)}
    differing |= {key for key, value in sgd.to_dict().items() if value != args.to_dict()[key]}
    assert differing - {"learning_rate"} == {"tempbalance", "output_dir"}


def test_a_default_that_no_option_has_is_an_error_and_not_passed_over():
    parser = ConfigArgumentParser((TempBalanceTrainingArguments,))
    with pytest.raises(ValueError, match="unknown option 'warmup_ratio' in the script's defaults"):
        parser.set_defaults(warmup_ratio=0.06)  # gone in transformers 5, where a share goes into warmup_steps


def test_flags_win_over_the_file_in_both_spellings():
    path = str(ROOT / "configs" / "quickstart.yaml")
    for argv in (["--config", path], [f"--config={path}"]):
        options, _, args = parse(*argv, "--learning_rate", "1e-1", "--width_factor=0.5")
        assert (args.learning_rate, options.width_factor, args.num_train_epochs) == (0.1, 0.5, 6)


def test_numbers_with_an_exponent_lists_and_mappings_are_read(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("learning_rate: 1e-1\nimage_mean: [0.1, 0.2, 0.3]\nmodel_args: {depth: 22}\nimage_size:\n")
    options, _, args = parse("--config", str(path))
    assert args.learning_rate == 0.1 and options.image_mean == [0.1, 0.2, 0.3]
    assert options.model_args == '{"depth": 22}' and options.image_size is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("min_rate: 0.5", "a.yaml: unknown key 'min_rate'. Did you mean 'min_ratio'"),
        ("- 1\n- 2", "one 'option: value' a line"),
        ("a: [", "a.yaml is not YAML"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name(tmp_path, text, message):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        parse("--config", str(path))
