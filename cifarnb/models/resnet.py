"""The residual networks of sections 1.2 and 1.3 (He et al. 2015, arXiv 1512.03385), narrow enough for CIFAR-10."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from cifarnb.models.scaling import scaled

STEM, STAGES = 16, (32, 64, 128)  # channels


class PointwiseConv2d(nn.Conv2d):
    """A 1×1 convolution without bias, of the pixels at so many steps from each other.

    With a stride, and 2 to 7 channels that come in, the backward pass of oneDNN's kernel for AVX2 (in PyTorch 2.11)
    writes past its buffer; without a stride, of those pixels alone, it does not.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) → (N, out_channels, H / stride, W / stride)."""
        if self.in_channels >= 8:  # whole vectors
            return super().forward(x)
        rows, columns = self.stride
        return F.conv2d(x[:, :, ::rows, ::columns], self.weight)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with batch norm and a skip connection; Conv 1×1 + BN on the skip where the shape changes.

    Without ``skip`` the two convolutions alone.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, skip: bool = True) -> None:
        super().__init__()
        self.skip = skip
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = nn.Sequential()  # the identity
        if skip and (stride != 1 or in_channels != out_channels):
            projection = PointwiseConv2d(in_channels, out_channels, stride)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) → (N, out_channels, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.downsample(x) if self.skip else out)

    def extra_repr(self) -> str:
        """What the layer tables show: channels, stride, and whether the skip has a convolution."""
        change = f"{self.conv1.in_channels}→{self.conv1.out_channels}"
        if not self.skip:
            return f"{change}, stride {self.conv1.stride[0]}, no skip"
        return f"{change}, stride {self.conv1.stride[0]}, downsample" if len(self.downsample) else change


class ResNet(nn.Module):
    """A 16-channel stem, then three stages of 32, 64 and 128 channels; each is so many BasicBlocks, at first stride 2.

    692,122 parameters for two blocks a stage, 1,080,090 for three.  ``width`` is a factor on all channels.
    """

    def __init__(self, blocks: Sequence[int], width: float = 1.0, skip: bool = True) -> None:
        super().__init__()
        in_channels = scaled(STEM, width)
        self.stem = nn.Sequential(
            nn.Conv2d(3, in_channels, 3, padding=1, bias=False), nn.BatchNorm2d(in_channels), nn.ReLU()
        )
        self.stages = nn.Sequential()
        for depth, channels in zip(blocks, [scaled(c, width) for c in STAGES], strict=True):
            stage = nn.Sequential()
            for i in range(depth):
                stage.append(BasicBlock(in_channels, channels, stride=2 if i == 0 else 1, skip=skip))
                in_channels = channels
            self.stages.append(stage)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(in_channels, 10))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) → logits (N, 10)."""
        return self.head(self.stages(self.stem(x)))
