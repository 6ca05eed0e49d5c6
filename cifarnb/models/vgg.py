"""VGG-A of section 2 (Simonyan & Zisserman 2014, arXiv 1409.1556), with the classifier of the course's starter."""

import torch
from torch import Tensor, nn

from cifarnb.models.scaling import scaled

VGG_A = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")  # channels of 3×3 convolutions; M: max pool


class NoisyBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose output is shifted and scaled at random: the control of Santurkar et al. 2018, Algorithm 1.

    At every step a channel draws μ ~ U(−½, ½) and σ ~ U(1, 1¼), then every sample of the batch its own shift from
    U(μ − 0.1, μ + 0.1) and its own scale from N(σ, 0.1).  So the distribution of the activations shifts from step to
    step more than it would without batch norm.  In eval mode shift and scale are those expected, 0 and 1⅛.
    """

    generator: torch.Generator | None = None  # on the CPU; None: the global random state

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        normed = super().forward(x)
        if not self.training:
            return normed * 1.125
        uniform = torch.rand(2, x.shape[1], generator=self.generator)
        shift, scale = uniform[0] - 0.5, 1 + uniform[1] / 4  # μ and σ, (C,)
        sample = (x.shape[0], x.shape[1], 1, 1)
        shift = shift[:, None, None] + 0.2 * torch.rand(sample, generator=self.generator) - 0.1
        scale = scale[:, None, None] + 0.1 * torch.randn(sample, generator=self.generator)
        return normed * scale.to(normed) + shift.to(normed)


class VGG(nn.Module):
    """Eight 3×3 convolutions and three linear layers; after every convolution ``norm``, if there is one.

    9,750,922 parameters, 9,756,426 with batch norm.  Xavier-normal weights, zero biases.  ``width`` is a factor on all
    channels and hidden units.
    """

    def __init__(self, norm: type[nn.BatchNorm2d] | None = None, width: float = 1.0) -> None:
        super().__init__()
        self.features = nn.Sequential()
        in_channels = 3
        for layer in VGG_A:
            if isinstance(layer, str):
                self.features.append(nn.MaxPool2d(2))
                continue
            channels = scaled(layer, width)
            self.features.append(nn.Conv2d(in_channels, channels, 3, padding=1))
            if norm:
                self.features.append(norm(channels))
            self.features.append(nn.ReLU())
            in_channels = channels
        hidden = scaled(512, width)
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(in_channels, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 10),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_normal_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) → logits (N, 10)."""
        return self.classifier(self.features(x))
