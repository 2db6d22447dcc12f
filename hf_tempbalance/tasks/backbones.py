"""ResNet, VGG and WideResNet for 32x32 and 64x64 images, in timm's registry and in transformers' Auto classes.

This one file travels to the Hub with a saved model, so it imports nothing of the package it comes from. Importing it
registers the names: ``timm.create_model("resnet18_cifar", num_classes=100, width_factor=1.0)``.

What differs from timm's ImageNet models is that of the TempBalance paper's code: a 3x3 stem of stride 1 without
pooling, no hidden layers in VGG's head, pre-activation blocks with the stride on the second convolution in
WideResNet, and PyTorch's default initialisation throughout.
"""

from __future__ import annotations

import difflib
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import timm
import torch
from timm.layers import ClassifierHead, create_classifier
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet, make_blocks
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
)
from transformers.modeling_outputs import ImageClassifierOutput


def _scaled(channels: int, width_factor: float) -> int:
    if not width_factor > 0:
        raise ValueError(f"width_factor={width_factor} is not allowed: it must be a number above 0.")
    return max(round(channels * width_factor), 1)


class CifarResNet(ResNet):
    """timm's ResNet of BasicBlocks behind a 3x3 stem of stride 1 without pooling, every width times a factor.

    Input (N, in_chans, H, W), H and W at least 8; output (N, num_classes).
    """

    def __init__(
        self, layers: tuple[int, ...], num_classes: int = 10, in_chans: int = 3, width_factor: float = 1.0
    ) -> None:
        # Not ResNet.__init__: its stem has 64 channels and stride 4, and it draws weights from other distributions.
        nn.Module.__init__(self)
        self.num_classes, self.in_chans = num_classes, in_chans
        self.drop_rate, self.grad_checkpointing = 0.0, False
        widths = tuple(_scaled(channels, width_factor) for channels in (64, 128, 256, 512))
        self.conv1 = nn.Conv2d(in_chans, widths[0], 3, padding=1, bias=False)  # type: ignore[assignment]  # timm's differs
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.act1 = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity()  # type: ignore[assignment]  # timm's always pools
        stages, stage_info = make_blocks(
            (BasicBlock,) * 4, widths, layers, widths[0], act_layer=nn.ReLU, norm_layer=nn.BatchNorm2d
        )
        for name, stage in stages:
            self.add_module(name, stage)
        # timm counts from a stem of stride 4.
        self.feature_info = [{"num_chs": widths[0], "reduction": 1, "module": "act1"}]
        self.feature_info += [info | {"reduction": info["reduction"] // 4} for info in stage_info]
        self.num_features = self.head_hidden_size = widths[-1]
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes)


class _HeadedNet(nn.Module):
    """What timm expects of a network that is ``forward_features``, its own, and a `ClassifierHead`."""

    num_classes: int
    head: ClassifierHead

    forward_features: Callable[[Tensor], Tensor]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)


class CifarVGG(_HeadedNet):
    """3x3 convolutions with bias, BatchNorm, ReLU, five 2x2 max-pools, a global mean and one linear layer.

    Modules are named conv_i, bn_i, relu_i, pool_i, where i counts all entries of the layout, pools included.
    Input (N, in_chans, H, W), H and W at least 32; output (N, num_classes).
    """

    LAYOUTS = {16: "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M"}
    LAYOUTS |= {19: "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512 M"}

    def __init__(self, depth: int, num_classes: int = 10, in_chans: int = 3, width_factor: float = 1.0) -> None:
        super().__init__()
        self.num_classes = num_classes
        features: OrderedDict[str, nn.Module] = OrderedDict()
        channels = in_chans
        for i, entry in enumerate(self.LAYOUTS[depth].split()):
            if entry == "M":
                features[f"pool_{i}"] = nn.MaxPool2d(2)
                continue
            width = _scaled(int(entry), width_factor)
            features[f"conv_{i}"] = nn.Conv2d(channels, width, 3, padding=1)
            features[f"bn_{i}"] = nn.BatchNorm2d(width)
            features[f"relu_{i}"] = nn.ReLU(inplace=True)
            channels = width
        self.features = nn.Sequential(features)
        self.num_features = self.head_hidden_size = channels
        self.head = ClassifierHead(channels, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.features(x)


class PreActivationBlock(nn.Module):
    """x + conv2(relu(bn2(conv1(relu(bn1(x)))))), with the stride on conv2 and, where shapes differ, a 1x1 shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.shortcut.append(nn.Conv2d(in_channels, channels, 1, stride=stride))

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(self.bn1(x).relu())
        return self.conv2(self.bn2(out).relu()) + self.shortcut(x)


class CifarWideResNet(_HeadedNet):
    """WideResNet of depth 6n + 4 with stages of 16, 16k, 32k, 64k channels, k = widen_factor * width_factor.

    Input (N, in_chans, H, W), H and W at least 4; output (N, num_classes).
    """

    def __init__(
        self,
        depth: int = 16,
        widen_factor: float = 8,
        num_classes: int = 10,
        in_chans: int = 3,
        width_factor: float = 1.0,
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth={depth} is not allowed: a WideResNet has 6n + 4 layers, such as 16, 22 or 28.")
        self.num_classes = num_classes
        self.conv1 = nn.Conv2d(in_chans, 16, 3, padding=1)
        channels = 16
        stages: list[nn.Module] = []
        for base in (16, 32, 64):
            width = _scaled(base, widen_factor * width_factor)
            strides = [2 if stages else 1] + [1] * ((depth - 4) // 6 - 1)
            blocks = nn.Sequential()
            for stride in strides:
                blocks.append(PreActivationBlock(channels, width, stride))
                channels = width
            stages.append(blocks)
        self.layer1, self.layer2, self.layer3 = stages
        self.bn1 = nn.BatchNorm2d(channels, momentum=0.9)
        self.num_features = self.head_hidden_size = channels
        self.head = ClassifierHead(channels, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.bn1(x).relu()


_CONSTRUCTORS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "resnet18_cifar": (CifarResNet, {"layers": (2, 2, 2, 2)}),
    "resnet34_cifar": (CifarResNet, {"layers": (3, 4, 6, 3)}),
    "vgg16_cifar": (CifarVGG, {"depth": 16}),
    "vgg19_cifar": (CifarVGG, {"depth": 19}),
    "wrn16_8_cifar": (CifarWideResNet, {"depth": 16, "widen_factor": 8}),
    "wrn28_6_cifar": (CifarWideResNet, {"depth": 28, "widen_factor": 6}),
}
CIFAR_ARCHITECTURES = tuple(_CONSTRUCTORS)

default_cfgs = generate_default_cfgs(
    {
        name: {
            "input_size": (3, 32, 32),
            "crop_pct": 1.0,
            "num_classes": 10,
            "mean": (0.4914, 0.4822, 0.4465),
            "std": (0.2023, 0.1994, 0.2010),
            "first_conv": "features.conv_0" if cls is CifarVGG else "conv1",
            "classifier": "fc" if cls is CifarResNet else "head.fc",
        }
        for name, (cls, _) in _CONSTRUCTORS.items()
    }
)


def _create(name: str, pretrained: bool, **kwargs: Any) -> Any:  # of the class in `_CONSTRUCTORS`
    cls, arguments = _CONSTRUCTORS[name]
    return build_model_with_cfg(cls, name, pretrained, **(arguments | kwargs))


def resnet18_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-18 with a 3x3 stem. Arguments: num_classes, in_chans, width_factor."""
    return _create("resnet18_cifar", pretrained, **kwargs)


def resnet34_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-34 with a 3x3 stem. Arguments: num_classes, in_chans, width_factor."""
    return _create("resnet34_cifar", pretrained, **kwargs)


def vgg16_cifar(pretrained: bool = False, **kwargs: Any) -> CifarVGG:
    """VGG-16 with BatchNorm and one linear layer. Arguments: num_classes, in_chans, width_factor."""
    return _create("vgg16_cifar", pretrained, **kwargs)


def vgg19_cifar(pretrained: bool = False, **kwargs: Any) -> CifarVGG:
    """VGG-19 with BatchNorm and one linear layer. Arguments: num_classes, in_chans, width_factor."""
    return _create("vgg19_cifar", pretrained, **kwargs)


def wrn16_8_cifar(pretrained: bool = False, **kwargs: Any) -> CifarWideResNet:
    """WideResNet-16-8. Arguments: num_classes, in_chans, width_factor, depth, widen_factor."""
    return _create("wrn16_8_cifar", pretrained, **kwargs)


def wrn28_6_cifar(pretrained: bool = False, **kwargs: Any) -> CifarWideResNet:
    """WideResNet-28-6. Arguments: num_classes, in_chans, width_factor, depth, widen_factor."""
    return _create("wrn28_6_cifar", pretrained, **kwargs)


for _name in CIFAR_ARCHITECTURES:
    # A model's folder on the Hub carries this file; where the package has registered the names, they stay its own.
    if not timm.is_model(_name):
        register_model(getattr(sys.modules[__name__], _name))


class CifarBackboneConfig(PreTrainedConfig):
    """Configuration of `CifarBackboneForImageClassification`.

    Args:
        architecture: one of `CIFAR_ARCHITECTURES`.
        model_args: arguments of its constructor, such as ``{"width_factor": 0.5}``.
        num_channels: of the input images.
    """

    model_type = "cifar_backbone"

    def __init__(
        self,
        architecture: str = "resnet18_cifar",
        model_args: dict[str, Any] | None = None,
        num_channels: int = 3,
        **kwargs: Any,
    ) -> None:
        if architecture not in _CONSTRUCTORS:
            raise ValueError(f"architecture={architecture!r} is not allowed: it must be one of {CIFAR_ARCHITECTURES}.")
        self.architecture = architecture
        self.model_args = dict(model_args or {})
        self.num_channels = num_channels
        super().__init__(**kwargs)


class CifarBackboneForImageClassification(PreTrainedModel):
    """One of this file's networks for `AutoModelForImageClassification`, from PyTorch's default initialisation."""

    config_class = CifarBackboneConfig
    main_input_name = "pixel_values"
    accepts_loss_kwargs = False

    def __init__(self, config: CifarBackboneConfig) -> None:
        super().__init__(config)
        cls, arguments = _CONSTRUCTORS[config.architecture]
        sizes = {"num_classes": config.num_labels, "in_chans": config.num_channels}
        self.backbone = cls(**(arguments | config.model_args | sizes))
        for module in self.backbone.modules():
            # The constructors have drawn the weights. Drawn again by post_init they would be as good, but not those
            # of timm.create_model under the same seed. from_pretrained builds on meta, where nothing is drawn.
            has_numbers = not any(parameter.is_meta for parameter in module.parameters())
            module._is_hf_initialized = has_numbers  # type: ignore[assignment]  # transformers' own mark
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any) -> ImageClassifierOutput:
        """pixel_values (N, num_channels, H, W), labels (N,) int64 -> logits (N, num_labels) and the mean loss."""
        logits = self.backbone(pixel_values)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)


def check_architecture(architecture: str) -> None:
    """Raise ValueError where timm's registry, with this file's networks, has no such name; it has the nearest ones."""
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"Near are: {', '.join(near)}." if near else "timm.list_models() has all names."
        raise ValueError(f"architecture={architecture!r} is not in timm's registry. {hint}")
    name, _, tag = architecture.partition(".")
    if tag and architecture not in timm.list_pretrained(f"{name}.*"):
        raise ValueError(f"architecture={architecture!r}: timm has no such weights; the name alone is {name!r}.")


def create_image_classifier(
    architecture: str,
    class_names: list[str],
    *,
    image_size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    model_args: dict[str, Any] | None = None,
) -> PreTrainedModel:
    """A classifier from scratch, for Trainer and the Hub: one of this file's networks or any timm architecture.

    Args:
        architecture: a name of timm's registry.
        class_names: one for each output.
        image_size: height and width of the images, in pixels.
        mean: of the images' channels, for the image processor that is saved with a timm architecture.
        std: likewise.
        model_args: arguments of the architecture, such as ``{"width_factor": 0.5}`` or ``{"img_size": 64}``.

    Returns:
        A model that starts from its network's own initialisation.

    Raises:
        ValueError: timm does not know the name (the message has the nearest ones), or the network not an argument.
    """
    id2label, label2id = dict(enumerate(class_names)), {name: i for i, name in enumerate(class_names)}
    model_args = dict(model_args or {})
    check_architecture(architecture)
    try:
        if architecture in _CONSTRUCTORS:
            ours = CifarBackboneConfig(architecture, model_args, id2label=id2label, label2id=label2id)
            return CifarBackboneForImageClassification(ours)
        backbone = timm.create_model(architecture, num_classes=len(class_names), **model_args)
    except TypeError as error:
        raise ValueError(f"{architecture} does not take model_args={model_args}: {error}") from error
    image = {"input_size": [3, image_size, image_size], "mean": list(mean), "std": list(std)}
    resize = {"crop_pct": 1.0, "crop_mode": "center", "interpolation": "bilinear"}
    config = TimmWrapperConfig(
        architecture=architecture,
        model_args=model_args,
        pretrained_cfg=image | resize,  # type: ignore[call-arg]  # kept as declared ones
        id2label=id2label,
        label2id=label2id,
    )
    # The wrapper draws all weights from N(0, 0.02); those of timm's own initialisation take their place.
    with torch.random.fork_rng():
        model = TimmWrapperForImageClassification(config)
    model.timm_model.load_state_dict(backbone.state_dict())
    return model


CifarBackboneConfig.register_for_auto_class()
CifarBackboneForImageClassification.register_for_auto_class("AutoModelForImageClassification")
AutoConfig.register(CifarBackboneConfig.model_type, CifarBackboneConfig, exist_ok=True)
AutoModelForImageClassification.register(CifarBackboneConfig, CifarBackboneForImageClassification, exist_ok=True)
