"""What a trained network says of images, and how right it is."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifarnb.data import normalize, pad
from cifarnb.hardware import autocast

EVALUATION_BATCH = 1000  # a constant, so that rounding does not depend on the training's batch size


def predict(model: nn.Module, images: Tensor, precision: str) -> Tensor:
    """Logits (N, 10) in float32 of images (N, 32, 32, 3) in uint8, on their device; leaves the model in eval mode."""
    model.eval()
    with torch.inference_mode(), autocast(images.device, precision):
        return torch.cat([model(normalize(part)).float() for part in images.split(EVALUATION_BATCH)])


def predict_with_views(model: nn.Module, images: Tensor, precision: str) -> Tensor:
    """The same with test-time augmentation: logits (N, 10), the mean over six views of every image.

    The image itself (one half), and shifted by a pixel up and left and down and right over its mirrored edge (one
    quarter each); each of them as it is and flipped.  As in Jordan 2024, arXiv 2404.00498.
    """
    edged = pad(images, reflect=1)
    straight, up, down = (
        (predict(model, view, precision) + predict(model, view.flip(2), precision)) / 2
        for view in (images, edged[:, 2:, 2:], edged[:, :32, :32])
    )
    return straight / 2 + (up + down) / 4


def loss_and_accuracy(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean cross-entropy (nats) and accuracy (0 to 1) of logits (N, 10) for labels (N,)."""
    loss = F.cross_entropy(logits, labels).item()
    accuracy = (logits.argmax(1) == labels).sum().item() / len(labels)
    return loss, accuracy
