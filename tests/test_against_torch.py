import functools
import math

import pytest
import torch

from cifarnb import against_torch, experiment
from cifarnb.config import Config
from cifarnb.models import build_model
from cifarnb.optimizers import OwnAdam, OwnSGD

RUN = Config(model="simple_cnn", precision="float32", epochs=3, batch_size=24, train_size=64, lr=0.05, momentum=0.9)


def compared(steps, dtype):
    generator = torch.Generator().manual_seed(0)
    batches = (
        (torch.randn(4, 3, 32, 32, dtype=dtype, generator=generator), torch.randint(10, (4,), generator=generator))
        for _ in range(steps)
    )
    return against_torch.compare(build_model("simple_cnn", width=0.5, neurons=0.5).to(dtype), batches)


@pytest.fixture(scope="module")
def in_float64():
    return compared(20, torch.float64)


def test_in_float64_all_of_it_agrees(in_float64):
    for name in ("sgd", "adam", "network"):
        found = in_float64[name]
        assert found["change"] > 0.005
        assert found["gradient"] > 0.01
        assert max(found["same_path"], found["own_path"], found["gradient_difference"]) < 1e-10, name
        assert found["losses"] == pytest.approx(found["torch_losses"], rel=1e-10)
        assert len({*found["losses"]}) == 20
    assert in_float64["network"]["torch_losses"] == in_float64["sgd"]["torch_losses"]
    assert 0 < in_float64["nudged"]["own_path"] < 1e-10


@pytest.mark.parametrize(
    ("name", "optimizer", "at"),
    [
        ("OwnSGD", functools.partial(OwnSGD, weight_decay=1e-6), "sgd"),
        ("OwnSGD", functools.partial(OwnSGD, nesterov=True), "sgd"),
        ("OwnAdam", functools.partial(OwnAdam, betas=(0.9, 0.9991)), "adam"),
        ("OwnAdam", functools.partial(OwnAdam, eps=1.1e-8), "adam"),
    ],
)
def test_another_optimizer_would_be_seen(monkeypatch, name, optimizer, at):
    monkeypatch.setattr(against_torch, name, optimizer)
    found = compared(3, torch.float64)
    assert found[at]["same_path"] > 1e-9
    assert found[at]["own_path"] > 1e-9


def test_another_gradient_would_be_seen(monkeypatch):
    """By a millionth, of one layer's biases."""
    own = against_torch.by_hand.loss_and_gradients

    def other(*given):
        loss, gradients = own(*given)
        return loss, gradients | {"features.0.bias": gradients["features.0.bias"] * (1 + 1e-6)}

    monkeypatch.setattr(against_torch.by_hand, "loss_and_gradients", other)
    found = compared(3, torch.float64)["network"]
    assert min(found["gradient_difference"], found["same_path"], found["own_path"]) > 1e-10


def test_in_float32_after_100_steps_the_optimizers_differ_by_rounding_alone():
    """Each step rounds a weight once here and once there, and what is added to it to a few parts of itself."""
    found, unit = compared(100, torch.float32), torch.finfo(torch.float32).eps
    for name in ("sgd", "adam"):
        largest_weight = 1 + found[name]["change"]  # the initial ones are below 1
        assert found[name]["same_path"] <= 100 * unit * largest_weight
        assert found[name]["change"] > 1000 * 100 * unit
        assert len(found[name]["losses"]) == len(found[name]["torch_losses"]) == 100
        assert all(map(math.isfinite, found[name]["losses"]))


def test_the_batches_and_weights_are_those_of_training(tiny_dataset, tmp_path):
    """Over the end of an epoch and its smaller last batch: PyTorch's losses are those of the run."""
    run = experiment.run(RUN, tiny_dataset, tmp_path, progress=False)
    found = experiment.compare_with_torch(run, tiny_dataset, steps=9)
    assert found["sgd"]["torch_losses"] == pytest.approx(run.losses.tolist(), rel=1e-4)
    assert found["network"]["losses"] == pytest.approx(run.losses.tolist(), rel=1e-4)
    augmented = experiment.run(RUN.replace(augment=True, epochs=1, seed=1), tiny_dataset, tmp_path, progress=False)
    losses = experiment.compare_with_torch(augmented, tiny_dataset, steps=3)["sgd"]["torch_losses"]
    assert losses == pytest.approx(augmented.losses.tolist(), rel=1e-4)


def test_what_was_compared_once_is_shown_from_the_records(make_run, tiny_dataset, monkeypatch):
    run = make_run()
    first = experiment.compare_with_torch(run, tiny_dataset, steps=1)
    monkeypatch.setattr(against_torch, "compare", None)
    assert experiment.compare_with_torch(run, tiny_dataset, steps=1) == first
    with pytest.raises(TypeError):  # other questions are computed
        experiment.compare_with_torch(run, tiny_dataset, steps=2)


@pytest.mark.parametrize("other", [{"model": "resnet6"}, {"activation": "gelu"}])
def test_another_network_is_refused(make_run, tiny_dataset, other):
    with pytest.raises(ValueError, match="only the plain Simple CNN is written by hand"):
        experiment.compare_with_torch(make_run(**other), tiny_dataset)
