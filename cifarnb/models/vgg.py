"""VGG-A of section 2 (Simonyan & Zisserman 2014, arXiv 1409.1556), with the classifier of the course's starter."""

from torch import Tensor, nn

VGG_A = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")  # channels of 3×3 convolutions; M: max pool


class VGG(nn.Module):
    """Eight 3×3 convolutions and three linear layers, with or without batch norm after every convolution.

    9,750,922 parameters, 9,756,426 with batch norm.  Xavier-normal weights, zero biases.
    """

    def __init__(self, batch_norm: bool) -> None:
        super().__init__()
        self.features = nn.Sequential()
        in_channels = 3
        for width in VGG_A:
            if isinstance(width, str):
                self.features.append(nn.MaxPool2d(2))
                continue
            self.features.append(nn.Conv2d(in_channels, width, 3, padding=1))
            if batch_norm:
                self.features.append(nn.BatchNorm2d(width))
            self.features.append(nn.ReLU())
            in_channels = width
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(512, 512),
            nn.ReLU(),
            nn.Linear(512, 512),
            nn.ReLU(),
            nn.Linear(512, 10),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_normal_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) → logits (N, 10)."""
        return self.classifier(self.features(x))
