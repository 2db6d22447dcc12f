from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForImageClassification, TimmWrapperForImageClassification

from hf_tempbalance import TempBalanceConfig
from hf_tempbalance.balance.balancer import assign_parameters
from hf_tempbalance.tasks import backbones
from hf_tempbalance.tasks.backbones import (
    CIFAR_ARCHITECTURES,
    CifarBackboneConfig,
    CifarBackboneForImageClassification,
    create_image_classifier,
)


ALL = pytest.mark.parametrize("name", CIFAR_ARCHITECTURES)
NAMES = [f"class {i}" for i in range(7)]
IMAGE = {"image_size": 32, "mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}


@pytest.mark.parametrize(
    ("name", "parameters", "tuned"),
    [
        # Parameters for 10 classes; tuned modules: convolutions + norms, as the reference groups them.
        ("resnet18_cifar", 11_173_962, 19 + 16),
        ("resnet34_cifar", 21_282_122, 35 + 32),
        ("vgg16_cifar", 14_728_266, 12 + 12),
        ("vgg19_cifar", 20_040_522, 15 + 15),
        ("wrn16_8_cifar", 10_965_866, 14 + 12),
        ("wrn28_6_cifar", 13_150_858, 26 + 24),
    ],
)
def test_sizes_and_the_number_of_tuned_modules_are_those_of_the_paper_s_networks(name, parameters, tuned):
    model = timm.create_model(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    _, owner = assign_parameters(model, TempBalanceConfig())
    modules = [m for m in model.modules() if any(id(p) in owner for p in m.parameters(recurse=False))]
    assert len(modules) == tuned


@ALL
@pytest.mark.parametrize("size", [32, 64])
def test_images_of_both_sizes_give_logits_and_gradients(name, size):
    model = timm.create_model(name, num_classes=100, width_factor=0.25)
    logits = model(torch.randn(2, 3, size, size))
    assert logits.shape == (2, 100)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@ALL
@pytest.mark.parametrize("width", [0.3, 0.5, 1.5])
def test_the_width_factor_scales_every_layer_but_the_head_s_output(name, width):
    full, scaled = timm.create_model(name), timm.create_model(name, width_factor=width)
    pairs = zip(full.modules(), scaled.modules(), strict=True)
    convolutions = [(a, b) for a, b in pairs if isinstance(a, nn.Conv2d)]
    stem = 1 if name.startswith("wrn") else 0  # a WideResNet's stem keeps its 16 channels
    for one, other in convolutions[stem:]:
        assert other.out_channels == round(one.out_channels * width)
    assert scaled(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_a_wide_resnet_of_any_depth_and_width():
    model = timm.create_model("wrn16_8_cifar", depth=22, widen_factor=2)
    assert [len(stage) for stage in (model.layer1, model.layer2, model.layer3)] == [3, 3, 3]
    assert model.layer3[0].conv1.out_channels == 128
    with pytest.raises(ValueError, match="depth=20 is not allowed: .* 6n \\+ 4"):
        timm.create_model("wrn16_8_cifar", depth=20)


def test_what_differs_from_imagenet_models():
    resnet = timm.create_model("resnet18_cifar")
    assert (resnet.conv1.kernel_size, resnet.conv1.stride, resnet.conv1.bias) == ((3, 3), (1, 1), None)
    assert resnet.forward_features(torch.randn(2, 3, 32, 32)).shape == (2, 512, 4, 4)
    vgg = timm.create_model("vgg16_cifar")
    assert vgg.features.conv_0.bias is not None and isinstance(vgg.features.pool_2, nn.MaxPool2d)
    assert [m for m in vgg.modules() if isinstance(m, nn.Linear)] == [vgg.get_classifier()]
    wide = timm.create_model("wrn16_8_cifar")
    block = wide.layer2[0]
    assert (block.conv1.stride, block.conv2.stride) == ((1, 1), (2, 2)) and block.conv1.bias is not None
    assert wide.bn1.momentum == 0.9 and isinstance(wide.layer1[0].shortcut[0], nn.Conv2d)


def test_a_pre_activation_block_is_its_formula():
    block = backbones.PreActivationBlock(4, 6, 2).eval()
    x = torch.randn(2, 4, 8, 8)
    expected = block.conv2(block.bn2(block.conv1(block.bn1(x).relu())).relu()) + block.shortcut[0](x)
    assert torch.equal(block(x), expected)


def has_default_initialisation(model: nn.Module) -> bool:
    """Weights uniform in +-1/sqrt(fan_in): PyTorch's default for convolutions and linear layers; norms 1 and 0."""
    checked = 0
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            bound = 1 / math.sqrt(module.weight[0].numel())
            largest, deviation = module.weight.abs().max().item(), module.weight.std().item()
            if not 0.97 * bound < largest <= bound * 1.0001 or abs(deviation / (bound / math.sqrt(3)) - 1) > 0.05:
                return False
            checked += 1
        elif isinstance(module, nn.BatchNorm2d) and not (module.weight == 1).all() & (module.bias == 0).all():
            return False
    return checked > 10


@ALL
def test_both_routes_start_from_pytorch_s_default_initialisation_and_from_the_same_weights(name):
    torch.manual_seed(11)
    timm_model = timm.create_model(name, num_classes=100)
    torch.manual_seed(11)
    auto_model = AutoModelForImageClassification.from_config(CifarBackboneConfig(name, num_labels=100))
    assert has_default_initialisation(timm_model)
    assert has_default_initialisation(auto_model)
    for one, other in zip(timm_model.state_dict().values(), auto_model.backbone.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_the_check_of_the_initialisation_can_fail():
    model = timm.create_model("resnet18_cifar", num_classes=100)
    nn.init.normal_(model.layer3[0].conv1.weight, std=0.02)
    assert not has_default_initialisation(model)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_a_timm_architecture_starts_from_timm_s_own_initialisation(name):
    arguments = {"img_size": 32} if name.startswith("vit") else {}
    torch.manual_seed(5)
    expected = timm.create_model(name, num_classes=len(NAMES), **arguments)
    torch.manual_seed(5)
    model = create_image_classifier(name, NAMES, model_args=arguments, **IMAGE)
    assert type(model) is TimmWrapperForImageClassification
    assert model.timm_model.state_dict().keys() == expected.state_dict().keys()
    for key, value in expected.state_dict().items():
        assert torch.equal(model.timm_model.state_dict()[key], value)
    state = torch.get_rng_state()
    torch.manual_seed(5)
    timm.create_model(name, num_classes=len(NAMES), **arguments)
    assert torch.equal(torch.get_rng_state(), state)  # the wrapper's own draws are not seen


LOAD = """
import sys, torch
{before}
from transformers import AutoModelForImageClassification
for folder in sys.argv[1:]:
    model = AutoModelForImageClassification.from_pretrained(folder, {arguments}).eval()
    torch.save((model(torch.load(folder + "/images.pt")).logits, model.config.id2label), folder + "/logits.pt")
"""


@pytest.mark.parametrize(
    ("before", "arguments"),
    [
        ("import hf_tempbalance.tasks.backbones", ""),
        ("sys.modules['hf_tempbalance'] = None", "trust_remote_code=True"),
    ],
    ids=["with the package", "without it"],
)
def test_saved_models_give_the_same_logits_in_a_fresh_process(tmp_path, before, arguments):
    images = torch.randn(2, 3, 32, 32)
    models = {}
    for name in ("resnet18_cifar", "vgg16_cifar", "wrn16_8_cifar"):
        model = models[tmp_path / name] = create_image_classifier(
            name, NAMES, model_args={"width_factor": 0.25}, **IMAGE
        )
        model(torch.randn(8, 3, 32, 32))  # moves the running statistics away from their start
        model.eval().save_pretrained(tmp_path / name)
        torch.save(images, tmp_path / name / "images.pt")
    code = LOAD.format(before=before, arguments=arguments)
    # The order of a sum, and with it the last bit, depends on the number of threads.
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    environment = {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "PATH": ""} | threads
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:timm", "-c", code, *map(str, models)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for folder, model in models.items():
        logits, labels = torch.load(folder / "logits.pt")
        assert torch.equal(logits, model(images).logits), folder.name
        assert labels == dict(enumerate(NAMES))
        assert json.loads((folder / "config.json").read_text())["auto_map"]["AutoModelForImageClassification"]


COPY_AND_PACKAGE = """
import sys, warnings, timm
from transformers import AutoModelForImageClassification
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    AutoModelForImageClassification.from_pretrained(sys.argv[1], trust_remote_code=True)
    import hf_tempbalance.tasks.backbones
assert not [str(w.message) for w in caught if "resnet18_cifar" in str(w.message)]
assert timm.create_model("resnet18_cifar", width_factor=0.25).fc.in_features == 128
"""


def test_the_copy_in_a_model_s_folder_and_the_package_live_in_one_process(tmp_path):
    create_image_classifier("resnet18_cifar", NAMES, model_args={"width_factor": 0.25}, **IMAGE).save_pretrained(
        tmp_path
    )
    done = subprocess.run(
        [sys.executable, "-c", COPY_AND_PACKAGE, str(tmp_path)],
        capture_output=True,
        text=True,
        env={"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "PATH": ""},
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_saved_timm_architecture_loads_without_the_package(tmp_path):
    model = create_image_classifier("resnet18", NAMES, **IMAGE).eval()
    model.save_pretrained(tmp_path)
    again = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(images).logits, model(images).logits)
    assert again.config.id2label == dict(enumerate(NAMES))


def test_a_new_head_for_other_classes_is_initialised_and_the_rest_is_loaded(tmp_path):
    model = create_image_classifier("resnet18_cifar", NAMES, model_args={"width_factor": 0.5}, **IMAGE)
    model.save_pretrained(tmp_path)
    other = AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=100, ignore_mismatched_sizes=True)
    assert torch.equal(other.backbone.layer1[0].conv1.weight, model.backbone.layer1[0].conv1.weight)
    assert other.backbone.fc.weight.shape == (100, 256)
    assert 0 < other.backbone.fc.weight.std() < 0.1 and torch.isfinite(other.backbone.fc.bias).all()


def test_a_checkpoint_with_missing_layers_gets_them_by_default_initialisation(tmp_path):
    model = create_image_classifier("resnet18_cifar", NAMES, **IMAGE)
    model.save_pretrained(tmp_path)
    state = {key: value for key, value in model.state_dict().items() if "layer4" not in key}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    again = AutoModelForImageClassification.from_pretrained(tmp_path)
    weight = again.backbone.layer4[0].conv1.weight
    assert not torch.equal(weight, model.backbone.layer4[0].conv1.weight)
    assert weight.std().item() == pytest.approx(1 / math.sqrt(3 * 256 * 9), rel=0.02)
    assert torch.equal(again.backbone.conv1.weight, model.backbone.conv1.weight)


def test_the_file_stands_alone():
    source = Path(backbones.__file__).read_text()
    assert "hf_tempbalance" not in source and "from ." not in source


def test_the_loss_is_the_mean_cross_entropy():
    model = create_image_classifier("resnet18_cifar", NAMES, model_args={"width_factor": 0.25}, **IMAGE)
    labels = torch.tensor([0, 3, 6])
    output = model(torch.randn(3, 3, 32, 32), labels=labels)
    assert output.loss == nn.functional.cross_entropy(output.logits, labels)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet18_cifra", {}, "is not in timm's registry. Near are: resnet18_cifar"),
        ("resnet18_cifar", {"widht": 1}, "does not take model_args={'widht': 1}"),
        ("resnet18", {"widht": 1}, "does not take model_args={'widht': 1}"),
        ("vgg16_cifar", {"width_factor": 0}, "width_factor=0 is not allowed"),
    ],
)
def test_a_wrong_architecture_or_argument_is_refused(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        create_image_classifier(name, NAMES, model_args=arguments, **IMAGE)


def test_a_wrong_architecture_in_a_config_is_refused():
    with pytest.raises(ValueError, match="architecture='resnet18' is not allowed"):
        CifarBackboneConfig("resnet18")


def test_the_auto_class_gives_our_class():
    model = AutoModelForImageClassification.from_config(CifarBackboneConfig("vgg16_cifar", {"width_factor": 0.25}))
    assert type(model) is CifarBackboneForImageClassification


def test_timm_s_own_interface_works():
    for name in CIFAR_ARCHITECTURES:
        model = timm.create_model(name, width_factor=0.25)
        assert name in timm.list_models("*_cifar")
        model.reset_classifier(3)
        assert model.get_classifier().out_features == 3
        assert model(torch.randn(2, 3, 32, 32)).shape == (2, 3)
        features = model.forward_features(torch.randn(2, 3, 32, 32))
        assert model.forward_head(features, pre_logits=True).shape == (2, model.num_features)
