import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from torch import nn

from cifarnb import metrics
from cifarnb.data import normalize
from cifarnb.metrics import loss_and_accuracy, predict, predict_with_views
from cifarnb.models import build_model


@pytest.fixture
def model():
    return build_model("resnet6", seed=3).train()


def one_at_a_time(model, images):
    """Logits of each image alone, in eval mode, so that batch norm uses its running statistics."""
    with torch.no_grad():
        return torch.cat([model.eval()(normalize(image[None])) for image in images])


def test_logits_are_those_of_each_image_alone(model, tiny_dataset, monkeypatch):
    monkeypatch.setattr(metrics, "EVALUATION_BATCH", 30)  # 64 images: two whole batches and a smaller one
    logits = predict(model, tiny_dataset.test_images, "float32")
    torch.testing.assert_close(logits, one_at_a_time(model, tiny_dataset.test_images), rtol=1e-4, atol=1e-5)
    assert logits.shape == (64, 10)


def test_evaluation_changes_nothing_but_the_mode(model, tiny_dataset):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    predict(model, tiny_dataset.test_images, "float32")
    assert not model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_loss_and_accuracy_are_the_means_over_the_images(model, tiny_dataset, monkeypatch):
    images, labels = tiny_dataset.test_images[:50], tiny_dataset.test_labels[:50]
    monkeypatch.setattr(metrics, "EVALUATION_BATCH", 16)  # the last batch is smaller and counts less
    logits = one_at_a_time(model, images)
    losses = [F.cross_entropy(row[None], label[None]).item() for row, label in zip(logits, labels, strict=True)]
    hits = [
        int(max(range(10), key=row.tolist().__getitem__) == label) for row, label in zip(logits, labels, strict=True)
    ]
    loss, accuracy = loss_and_accuracy(predict(model, images, "float32"), labels)
    assert loss == pytest.approx(sum(losses) / 50, rel=1e-5)
    assert accuracy == sum(hits) / 50


class Brightest(nn.Module):
    """Logits that single out the class an image's first pixel names."""

    def forward(self, x):
        named = ((x[:, 0, 0, 0] + 1) * 127.5).round().long()
        return 10 * F.one_hot(named, 10).float()


def test_a_model_that_is_always_right_and_one_that_is_always_wrong():
    labels = torch.arange(40) % 10
    images = torch.zeros(40, 32, 32, 3, dtype=torch.uint8)
    images[:, 0, 0, 0] = labels
    logits = predict(Brightest(), images, "float32")
    right = loss_and_accuracy(logits, labels)
    assert right == (pytest.approx(torch.log1p(9 * torch.exp(torch.tensor(-10.0))).item(), rel=1e-2), 1.0)
    assert loss_and_accuracy(logits, (labels + 1) % 10)[1] == 0.0


def test_bfloat16_computes_coarsely_and_returns_float32(model, tiny_dataset):
    fine, coarse = (predict(model, tiny_dataset.test_images, p) for p in ("float32", "bfloat16"))
    assert coarse.dtype == torch.float32
    assert not torch.equal(fine, coarse)
    torch.testing.assert_close(fine, coarse, rtol=0.1, atol=0.05)


def test_test_time_augmentation_is_the_weighted_mean_of_six_views(model, tiny_dataset):
    """Image by image, with torchvision's transforms."""
    images = tiny_dataset.test_images[:20]
    found = predict_with_views(model, images, "float32")
    for image, logits in zip(images, found, strict=True):
        edged = TF.pad(image.permute(2, 0, 1).float(), [1], padding_mode="reflect").byte()
        expected = torch.zeros(1, 10)
        for top, left, share in ((1, 1, 1 / 4), (0, 0, 1 / 8), (2, 2, 1 / 8)):
            view = TF.crop(edged, top, left, 32, 32)
            for seen in (view, TF.hflip(view)):
                expected += share * one_at_a_time(model, seen.permute(1, 2, 0)[None])
        torch.testing.assert_close(logits[None], expected, rtol=1e-4, atol=1e-5)
