"""The simple CNN of section 1.1: LeNet-5's layout (LeCun et al. 1998) with ReLU and max pooling, for colour images."""

from torch import Tensor, nn

from cifarnb.models.scaling import scaled


class SimpleCNN(nn.Module):
    """Two 5×5 convolutions and three linear layers; 62,006 parameters.

    ``width`` is a factor on the channels of the convolutions.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        first, second = scaled(6, width), scaled(16, width)
        self.features = nn.Sequential(
            nn.Conv2d(3, first, kernel_size=5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, kernel_size=5),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(second * 5 * 5, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) → logits (N, 10)."""
        return self.classifier(self.features(x))
