"""The network made for speed (Jordan 2024, *94% on CIFAR-10 in 3.29 Seconds on a Single GPU*, arXiv 2404.00498)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifarnb.models.scaling import scaled

GROUPS = (64, 256, 256)  # channels
BIAS_SCALE = 8.0  # with plain SGD a bias that counts 8 times learns at 64 times the rate, as published
HEAD_SCALE = 1 / 9


class Whitening2d(nn.Conv2d):
    """A frozen 2×2 convolution that makes the images' patches uncorrelated and of one variance; its bias is trained.

    Its filters are the principal directions of the patches, each with both signs, because GELU passes one of them.
    """

    def __init__(self) -> None:
        super().__init__(3, 2 * 3 * 2 * 2, kernel_size=2)
        self.weight.requires_grad_(False)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Take the filters from images (N, 3, 32, 32)."""
        covariance, patches = torch.zeros(12, 12, dtype=torch.float64), 0
        for part in images.split(1000):
            columns = F.unfold(part.cpu(), kernel_size=2).double().transpose(0, 1).flatten(1)  # (12, patches)
            covariance, patches = covariance + columns @ columns.T, patches + columns.shape[1]
        covariance /= patches
        variances, directions = torch.linalg.eigh(covariance)  # directions are columns
        # Which sign comes first is the library's choice; where it is always the same, a seed is one network everywhere.
        largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
        directions = directions * largest.sign()
        filters = (directions / (variances + 5e-4 * covariance.diagonal().mean()).sqrt()).T.reshape(12, 3, 2, 2)
        self.weight.copy_(torch.cat([filters, -filters]))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) → (N, 24, H − 1, W − 1)."""
        assert self.bias is not None
        return self._conv_forward(x, self.weight, BIAS_SCALE * self.bias)


class QuickBatchNorm2d(nn.BatchNorm2d):
    """Batch norm without a trained scale, with a bias that counts BIAS_SCALE times and statistics that follow fast."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-12, momentum=0.4)
        self.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        statistics = (self.running_mean, self.running_var, self.weight, BIAS_SCALE * self.bias)
        return F.batch_norm(x, *statistics, self.training, self.momentum or 0.0, self.eps)


class ScaledLinear(nn.Linear):
    """A linear layer without bias whose outputs are HEAD_SCALE times as large."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_features) → (N, out_features)."""
        return super().forward(x) * HEAD_SCALE


class FastCNN(nn.Module):
    """A whitening layer, three groups of two 3×3 convolutions with batch norm, GELU and max pooling, a scaled head.

    1,971,352 parameters, and 288 that are never trained; these come from images, by ``Whitening2d.fit``.  The first
    filters of every other convolution begin as the identity.  ``width`` is a factor on the channels of the groups.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        whitening = Whitening2d()
        in_channels = whitening.out_channels
        self.features = nn.Sequential(whitening, nn.GELU())
        for channels in (scaled(c, width) for c in GROUPS):
            self.features.extend([_convolution(in_channels, channels), nn.MaxPool2d(2), *_norm(channels)])
            self.features.extend([_convolution(channels, channels), *_norm(channels)])
            in_channels = channels
        self.head = nn.Sequential(nn.MaxPool2d(3), nn.Flatten(), ScaledLinear(in_channels, 10))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) → logits (N, 10)."""
        return self.head(self.features(x))


def _convolution(in_channels: int, out_channels: int) -> nn.Conv2d:
    made = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
    nn.init.dirac_(made.weight.detach()[:in_channels])
    return made


def _norm(channels: int) -> list[nn.Module]:
    return [QuickBatchNorm2d(channels), nn.GELU()]
