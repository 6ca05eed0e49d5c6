"""What a trained network says of images, and how right it is."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifarnb.data import normalize
from cifarnb.hardware import autocast

EVALUATION_BATCH = 1000  # a constant, so that rounding does not depend on the training's batch size


def predict(model: nn.Module, images: Tensor, precision: str) -> Tensor:
    """Logits (N, 10) in float32 of images (N, 32, 32, 3) in uint8, on their device; leaves the model in eval mode."""
    model.eval()
    with torch.inference_mode(), autocast(images.device, precision):
        return torch.cat([model(normalize(part)).float() for part in images.split(EVALUATION_BATCH)])


def loss_and_accuracy(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean cross-entropy (nats) and accuracy (0 to 1) of logits (N, 10) for labels (N,)."""
    loss = F.cross_entropy(logits, labels).item()
    accuracy = (logits.argmax(1) == labels).sum().item() / len(labels)
    return loss, accuracy
