"""The networks of the report, by name, and what can be said of a network without training it."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torchinfo
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cifarnb.models.fast import FastCNN, Whitening2d
from cifarnb.models.lenet import ACTIVATIONS, Dropout, Residual, SimpleCNN
from cifarnb.models.resnet import BasicBlock, ResNet
from cifarnb.models.vgg import VGG, NoisyBatchNorm2d

MODELS: dict[str, Callable[..., nn.Module]] = {  # each takes its width, a factor on the channels
    "simple_cnn": SimpleCNN,
    "resnet6": lambda width: ResNet(blocks=(2, 2, 2), width=width),
    "resnet9": lambda width: ResNet(blocks=(3, 3, 3), width=width),
    "vgg_a": lambda width: VGG(width=width),
    "vgg_a_bn": lambda width: VGG(nn.BatchNorm2d, width),
    "vgg_a_noisy_bn": lambda width: VGG(NoisyBatchNorm2d, width),
    "resnet9_no_skip": lambda width: ResNet(blocks=(3, 3, 3), width=width, skip=False),
    "fast_cnn": FastCNN,
}

LABELS = {  # what a reader is shown
    "simple_cnn": "Simple CNN",
    "resnet6": "ResNet, 6 blocks",
    "resnet9": "ResNet, 9 blocks",
    "vgg_a": "VGG-A",
    "vgg_a_bn": "VGG-A + BN",
    "vgg_a_noisy_bn": "VGG-A + noisy BN",
    "resnet9_no_skip": "9 blocks, no skip",
    "fast_cnn": "Fast CNN",
}

_SEEDING = threading.Lock()  # PyTorch's initialisation draws from the global random state, which threads share


def label(name: str, width: float = 1.0) -> str:
    """What a reader is shown of the network of that name and width: "VGG-A", "VGG-A, ¼ as wide"."""
    words = {1 / 8: "⅛", 1 / 4: "¼", 1 / 2: "½", 3 / 4: "¾", 2: "twice"}
    return LABELS[name] if width == 1 else f"{LABELS[name]}, {words.get(width, f'{width:g} times')} as wide"


def build_model(name: str, seed: int = 0, width: float = 1.0, **variant: Any) -> nn.Module:
    """The network of that name with initial weights drawn from ``seed``: (N, 3, 32, 32) → logits (N, 10).

    ``width`` is a factor on its channels; ``variant`` goes to the simple CNN, which alone has some.  The global random
    state is left as it was.  Raises KeyError for a name that is not in MODELS.
    """
    with _SEEDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[name](width, **variant)


def set_noise(model: nn.Module, generator: torch.Generator) -> bool:
    """Let the network's noisy layers draw from ``generator``; returns whether it has any."""
    noisy = [module for module in model.modules() if isinstance(module, NoisyBatchNorm2d | Dropout)]
    for module in noisy:
        module.generator = generator
    return bool(noisy)


def set_whitening(model: nn.Module, images: Tensor) -> None:
    """Let the network's whitening layers, if it has any, take their filters from images (N, 3, 32, 32)."""
    for module in model.modules():
        if isinstance(module, Whitening2d):
            module.fit(images)


def count_parameters(model: nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def count_multiply_adds(model: nn.Module) -> int:
    """Multiply-adds of convolutions and linear layers in one forward pass of one (3, 32, 32) image."""
    counter, training = FlopCounterMode(display=False), model.training
    with torch.no_grad(), counter:
        model.eval()(torch.zeros(1, 3, 32, 32))
    model.train(training)
    return counter.get_total_flops() // 2  # a multiply-add is two operations


def count_operations(model: nn.Module) -> int:
    """Multiplications and additions of training on an image: two a multiply-add, forward and twice as many backward."""
    return 6 * count_multiply_adds(model)


@dataclass(frozen=True)
class Layer:
    """One row of a network's table."""

    name: str  # "Conv2d(3→6, 5×5) + ReLU"
    output_shape: tuple[int, ...]  # without the batch dimension
    parameters: int


def list_layers(model: nn.Module) -> list[Layer]:
    """The layers in the order of execution; batch norm and activation stand with the layer they follow.

    A residual block is one row.
    """
    follow = (nn.BatchNorm2d, Dropout, *(type(make()) for make in ACTIVATIONS.values()))
    layers: list[Layer] = []
    inside = -1  # depth of the residual block whose inner layers are being passed over
    for info in torchinfo.summary(model, input_data=torch.zeros(1, 3, 32, 32), verbose=0, depth=8).summary_list:
        if inside >= 0 and info.depth > inside:
            continue
        inside = info.depth if isinstance(info.module, BasicBlock | Residual) else -1
        if inside < 0 and not info.is_leaf_layer:
            continue
        shape, parameters = tuple(info.output_size[1:]), count_parameters(info.module)
        if isinstance(info.module, follow):
            last = layers.pop()
            layers.append(Layer(f"{last.name} + {info.class_name}", shape, last.parameters + parameters))
        else:
            layers.append(Layer(_describe(info.module), shape, parameters))
    return layers


def _describe(module: nn.Module) -> str:
    match module:
        case nn.Conv2d():
            extras = [f"stride {module.stride[0]}"] if module.stride[0] > 1 else []
            extras += [f"padding {module.padding[0]}"] if module.padding[0] else []
            extras += ["whitening"] if isinstance(module, Whitening2d) else []
            size = "×".join(map(str, module.kernel_size))
            return f"Conv2d({', '.join([f'{module.in_channels}→{module.out_channels}', size, *extras])})"
        case nn.Linear():
            return f"Linear({module.in_features}→{module.out_features})"
        case nn.MaxPool2d() | nn.AvgPool2d():
            return f"{type(module).__name__}({module.kernel_size})"
        case nn.AdaptiveAvgPool2d():
            return f"AdaptiveAvgPool2d({module.output_size})"
        case Residual():
            return f"Residual({', '.join(_describe(inner) for inner in module)})"
        case BasicBlock():
            return f"BasicBlock({module.extra_repr()})"
    return type(module).__name__


def feature_maps(model: nn.Module, images: Tensor, nodes: list[str]) -> dict[str, Tensor]:
    """The named submodules' outputs (N, C, H, W) for images (N, 3, 32, 32); leaves the model in eval mode."""
    from torchvision.models.feature_extraction import create_feature_extractor  # more than a second: where it is needed

    with torch.no_grad():
        return create_feature_extractor(model.eval(), return_nodes=nodes)(images)
