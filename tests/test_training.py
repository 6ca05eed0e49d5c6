import math
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cifarnb.config import Config
from cifarnb.data import batches, epoch_generator, load, normalize, pad
from cifarnb.models import build_model
from cifarnb.training import fit, format_seconds, is_watched, make_optimizer, make_schedule

RECIPES = {
    "sgd": {"optimizer": "sgd", "lr": 0.01, "momentum": 0.9},
    "nesterov": {"optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3},
    "adam": {"optimizer": "adam", "lr": 1e-3, "schedule": "cosine", "augment": True},
    "adamw": {"optimizer": "adamw", "lr": 1e-3, "schedule": "one_cycle", "weight_decay": 0.1, "label_smoothing": 0.1},
}


def configure(**changes):
    return Config(**({"model": "simple_cnn", "epochs": 2, "batch_size": 100, "precision": "float32"} | changes))


def slow_losses(config, dataset):
    """The same training as a plain loop with PyTorch's unfused optimizers and the schedule by its formula."""
    model = build_model(config.model, config.seed)
    decay = config.weight_decay
    match config.optimizer:
        case "sgd":
            optimizer = torch.optim.SGD(
                model.parameters(), config.lr, config.momentum, nesterov=config.nesterov, weight_decay=decay
            )
        case "adam":
            optimizer = torch.optim.Adam(model.parameters(), config.lr, weight_decay=decay)
        case "adamw":
            optimizer = torch.optim.AdamW(model.parameters(), config.lr, weight_decay=decay)
    per_epoch = math.ceil(len(dataset.train_images) / config.batch_size)
    schedule = None
    if config.schedule == "one_cycle":
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=config.epochs * per_epoch)
    images = pad(dataset.train_images) if config.augment else dataset.train_images
    losses = []
    for epoch in range(config.epochs):
        if config.schedule == "cosine":
            optimizer.param_groups[0]["lr"] = config.lr * (1 + math.cos(math.pi * epoch / config.epochs)) / 2
        generator = epoch_generator(config.seed, epoch)
        for x, y in batches(images, dataset.train_labels, config.batch_size, generator, augment=config.augment):
            model.train()
            loss = F.cross_entropy(model(x.contiguous()), y, label_smoothing=config.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if schedule:
                schedule.step()
            losses.append(loss.item())
    return np.array(losses)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("model", ["simple_cnn", "resnet6"])
def test_losses_are_those_of_a_slow_plain_loop(tiny_dataset, recipe, model):
    config = configure(model=model, **RECIPES[recipe])
    _, losses, _ = fit(build_model(model, config.seed), tiny_dataset, config)
    # Adam divides by small gradients' size, so in the deeper network rounding grows to a thousandth within six steps.
    rtol = 3e-3 if model == "resnet6" else 1e-4
    np.testing.assert_allclose(losses, slow_losses(config, tiny_dataset), rtol=rtol)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_same_seed_same_history_bit_for_bit(tiny_dataset, precision):
    config = configure(model="resnet6", augment=True, precision=precision)
    results = [fit(build_model("resnet6", 0), tiny_dataset, config) for _ in range(2)]
    timeless = [history.drop(columns=["seconds", "images_per_s"]) for history, _, _ in results]
    assert timeless[0].equals(timeless[1])
    assert np.array_equal(results[0][1], results[1][1])


def test_another_seed_gives_another_history(tiny_dataset):
    losses = [fit(build_model("simple_cnn", s), tiny_dataset, configure(seed=s))[1] for s in (0, 1)]
    assert not np.array_equal(*losses)


def test_history_agrees_with_the_losses_and_with_the_model(tiny_dataset):
    config = configure(lr=0.02, schedule="cosine", test_size=50)
    model = build_model("simple_cnn", 0)
    history, losses, wall = fit(model, tiny_dataset, config)
    assert list(history.epoch) == [1, 2]
    weights = [100, 100, 56]  # images in the batches of an epoch of 256
    for epoch in range(2):
        expected = np.average(losses[3 * epoch : 3 * epoch + 3], weights=weights)
        assert history.train_loss[epoch] == pytest.approx(expected, rel=1e-6)
    assert history.lr.tolist() == pytest.approx([0.02, 0.01])
    model.eval()
    logits = model(normalize(tiny_dataset.test_images[:50]))
    labels = tiny_dataset.test_labels[:50]
    assert history.test_loss.iloc[-1] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert history.test_accuracy.iloc[-1] == (logits.argmax(1) == labels).sum().item() / 50
    assert wall >= history.seconds.sum()
    assert history.images_per_s.tolist() == pytest.approx((256 / history.seconds).tolist())


def test_train_size_takes_the_first_images(tiny_dataset):
    _, some, _ = fit(build_model("simple_cnn", 0), tiny_dataset, configure(train_size=128))
    _, beyond, _ = fit(build_model("simple_cnn", 0), tiny_dataset, configure(train_size=10_000))
    assert (len(some), len(beyond)) == (2 * 2, 2 * 3)


def test_bfloat16_stays_near_float32(tiny_dataset):
    runs = [fit(build_model("resnet6", 0), tiny_dataset, configure(model="resnet6", precision=p))[1]
            for p in ("float32", "bfloat16")]  # fmt: skip
    np.testing.assert_allclose(*runs, rtol=0.05)
    assert not np.array_equal(*runs)


def test_a_run_that_diverges_stops_and_says_so_in_its_losses(tiny_dataset):
    history, losses, _ = fit(build_model("simple_cnn", 0), tiny_dataset, configure(lr=1e9, epochs=5))
    assert len(history) < 5
    assert not np.isfinite(losses).all()


def test_it_learns(tiny_dataset):
    history, _, _ = fit(
        build_model("simple_cnn", 0), tiny_dataset, configure(epochs=60, lr=2e-3, optimizer="adam", batch_size=32)
    )
    assert history.train_accuracy.iloc[-1] > 0.9  # 256 random images can be learnt by heart


def test_estimate_is_announced_before_training(tiny_dataset, capsys):
    fit(build_model("simple_cnn", 0), tiny_dataset, configure(epochs=3))
    said = capsys.readouterr().err
    assert "3 epochs of 256 images" in said
    assert "about" in said


def test_the_estimate_leaves_no_trace(tiny_dataset, monkeypatch):
    config = configure(model="resnet6")
    with_estimate = fit(build_model("resnet6", 0), tiny_dataset, config)[1]
    monkeypatch.setattr("cifarnb.training.estimate_seconds", lambda *_: 0.0)
    assert np.array_equal(with_estimate, fit(build_model("resnet6", 0), tiny_dataset, config)[1])


@pytest.mark.parametrize(("allow_stdin", "watched"), [(True, True), (False, False)])
def test_a_bar_is_shown_where_somebody_can_be_asked(monkeypatch, allow_stdin, watched):
    shell = SimpleNamespace(kernel=SimpleNamespace(_allow_stdin=allow_stdin))
    monkeypatch.setattr("cifarnb.training.get_ipython", lambda: shell)
    assert is_watched() is watched


def test_a_batch_log_has_no_bar(tiny_dataset, capsys):
    fit(build_model("simple_cnn", 0), tiny_dataset, configure())
    assert "it/s" not in capsys.readouterr().err


def test_schedules_are_stepped_as_documented():
    optimizer = make_optimizer(build_model("simple_cnn"), configure())
    assert make_schedule(optimizer, configure(), 3) == (None, False)
    assert make_schedule(optimizer, configure(schedule="cosine"), 3)[1] is False
    assert make_schedule(optimizer, configure(schedule="one_cycle"), 3)[1] is True


def test_seconds_are_written_for_people():
    assert [format_seconds(s) for s in (12.4, 150, 7200)] == ["12 s", "2.5 min", "2.0 h"]


@pytest.mark.skipif("CIFARNB_DATA" not in os.environ, reason="no real CIFAR-10 at hand: CIFARNB_DATA is not set")
def test_two_epochs_on_real_data_pass_45_percent():
    dataset = load("cifar10")
    assert dataset.is_cifar10
    config = Config(model="simple_cnn", epochs=2, lr=1e-2, batch_size=64)
    history, _, _ = fit(build_model("simple_cnn", 0), dataset, config)
    assert history.test_accuracy.iloc[-1] > 0.45
