"""The simple CNN of section 1.1: LeNet-5's layout (LeCun et al. 1998) with ReLU and max pooling, and its variants."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifarnb.models.scaling import scaled

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
POOLING: dict[str, Callable[[], list[nn.Module]]] = {
    "max": lambda: [nn.MaxPool2d(2)],
    "average": lambda: [nn.AvgPool2d(2)],
    "stride": list,
}


class Residual(nn.Sequential):
    """Layers whose input is added to their output: cropped to its size, and with channels of zeros (He et al. 2015, A).

    It is added behind the activation: before it, it would be no more than another initial value of the filters.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C' ≥ C, H' ≤ H, W' ≤ W)."""
        out = super().forward(x)
        top, left = ((x.shape[axis] - out.shape[axis]) // 2 for axis in (2, 3))
        cropped = x[:, :, top : top + out.shape[2], left : left + out.shape[3]]
        return out + F.pad(cropped, (0, 0, 0, 0, 0, out.shape[1] - x.shape[1]))


class Dropout(nn.Dropout):
    """Dropout that draws from a generator, so that a training that was interrupted goes on as it would have."""

    generator: torch.Generator | None = None  # on the CPU; None: the global random state

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, to the same."""
        if not self.training:
            return x
        kept = torch.rand(x.shape, generator=self.generator) >= self.p
        return x * kept.to(x) / (1 - self.p)


class SimpleCNN(nn.Module):
    """Two 5×5 convolutions and three linear layers; 62,006 parameters.

    ``width`` is a factor on the channels of the convolutions, ``neurons`` on the two hidden linear layers.  With
    ``pooling`` "stride" the convolutions have stride 2 in place of pooling; with ``residual`` the input of the second
    is added to its output; ``batch_norm`` is behind the convolutions, ``dropout`` behind the hidden linear layers.
    """

    def __init__(
        self,
        width: float = 1.0,
        *,
        neurons: float = 1.0,
        activation: str = "relu",
        pooling: str = "max",
        batch_norm: bool = False,
        residual: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        first, second = scaled(6, width), scaled(16, width)
        hidden = (scaled(120, neurons), scaled(84, neurons))

        def convolution(in_channels: int, out_channels: int) -> list[nn.Module]:
            made = nn.Conv2d(in_channels, out_channels, kernel_size=5, stride=2 if pooling == "stride" else 1)
            return [made, *([nn.BatchNorm2d(out_channels)] if batch_norm else []), ACTIVATIONS[activation]()]

        def linear(in_features: int, out_features: int) -> list[nn.Module]:
            made = [nn.Linear(in_features, out_features), ACTIVATIONS[activation]()]
            return [*made, Dropout(dropout)] if dropout else made

        one, two = convolution(3, first), convolution(first, second)
        pool = POOLING[pooling]
        self.features = nn.Sequential(*one, *pool(), *([Residual(*two)] if residual else two), *pool())
        self.classifier = nn.Sequential(
            nn.Flatten(),
            *linear(second * 5 * 5, hidden[0]),
            *linear(*hidden),
            nn.Linear(hidden[1], 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) → logits (N, 10)."""
        return self.classifier(self.features(x))
