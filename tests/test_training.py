import ast
import math
import os
import warnings
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import slow
import torch
import torch.nn.functional as F
from torch.fx.experimental.proxy_tensor import make_fx

from cifarnb import data, training
from cifarnb.config import Config, ConfigError
from cifarnb.data import load, normalize
from cifarnb.metrics import loss_and_accuracy, predict, predict_with_views
from cifarnb.models import build_model, set_whitening
from cifarnb.report import sections
from cifarnb.training import fit, make_optimizer, make_schedule, split

RECIPES = {
    "sgd": {"optimizer": "sgd", "lr": 0.01, "momentum": 0.9},
    "nesterov": {"optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3},
    "adam": {"optimizer": "adam", "lr": 1e-3, "schedule": "cosine", "augment": True},
    "adamw": {"optimizer": "adamw", "lr": 1e-3, "schedule": "one_cycle", "weight_decay": 0.1, "label_smoothing": 0.1},
    "rmsprop": {"optimizer": "rmsprop", "lr": 1e-4, "loss": "mse", "l1": 1e-3, "weight_decay": 1e-2},
    "well": {"optimizer": "sgd", "lr": 0.02, "nesterov": True, "schedule": "triangle", "weight_decay": 5e-2,
             "decay_biases": False, "label_smoothing": 0.1, "average_decay": 0.8, "augment": True,
             "alternate_flips": True, "cutout": 9},
    "muon": {"optimizer": "muon", "lr": 0.1, "momentum": 0.6, "schedule": "linear", "weight_decay": 5e-2,
             "label_smoothing": 0.2, "augment": True, "reflect_padding": 2, "alternate_flips": True},
    "dropout": {"optimizer": "rmsprop", "lr": 1e-3, "dropout": 0.5, "batch_norm": True},
}  # fmt: skip
ONE_NETWORK = ("muon", "dropout")  # what not every network can have
FAST = {"model": "fast_cnn", "width": 0.125}


def configure(**changes):
    return Config(**({"model": "simple_cnn", "epochs": 2, "batch_size": 100, "precision": "float32"} | changes))


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if recipe not in ONE_NETWORK])
@pytest.mark.parametrize("model", ["simple_cnn", "resnet6"])
def test_losses_are_those_of_a_slow_plain_loop(tiny_dataset, recipe, model):
    config = configure(model=model, **RECIPES[recipe])
    _, losses, *_ = fit(build_model(model, config.seed), tiny_dataset, config)
    # Adam divides by small gradients' size, so in the deeper network rounding grows to a thousandth within six steps.
    rtol = 3e-3 if model == "resnet6" else 1e-4
    np.testing.assert_allclose(losses, slow.train(config, tiny_dataset)[0], rtol=rtol)


def fifty_losses(dataset, config):
    """Of 50 steps, by the engine and by the slow loop, in float64: in float32 rounding would grow to a thousandth."""
    config = config.replace(batch_size=10, epochs=2, train_size=250, augment=True)
    found = fit(slow.InFloat64(config), dataset, config).losses
    assert len(found) == 50
    return found, slow.train(config, dataset, slow.InFloat64(config))[0]


@pytest.mark.parametrize(
    ("model", "width", "recipe"),
    [
        *[("simple_cnn", 1, recipe) for recipe in RECIPES if recipe != "dropout"],
        *[("resnet6", 0.25, "well"), ("fast_cnn", 0.125, "well"), ("fast_cnn", 0.125, "muon")],
        *[("resnet6", 0.25, "adam"), ("vgg_a_bn", 0.125, "nesterov"), ("vgg_a_bn", 0.125, "adamw")],
    ],
)
def test_the_first_fifty_losses_are_those_of_a_slow_plain_loop_to_rounding(tiny_dataset, model, width, recipe):
    found, expected = fifty_losses(tiny_dataset, configure(model=model, width=width, **RECIPES[recipe]))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def swap_two_images(drawn):
    drawn[:, [9, 10]] = drawn[:, [10, 9]]  # the last of the first batch, and the first of the second


def shift_a_crop(drawn):
    drawn[1, 7] = (drawn[1, 7] + 1) % 9


def flip_an_image(drawn):
    drawn[3, 7] = 1 - drawn[3, 7]


@pytest.mark.parametrize("change", [swap_two_images, shift_a_crop, flip_an_image])
def test_one_image_that_is_drawn_otherwise_would_be_seen(tiny_dataset, monkeypatch, change):
    def draw(n, generator, *given):
        drawn = data.draw(n, generator, *given)
        change(drawn)
        return drawn

    monkeypatch.setattr(training, "draw", draw)
    found, expected = fifty_losses(tiny_dataset, configure())
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "change", [{"alternate_flips": False}, {"cutout": 8}, {"decay_biases": True}, {"schedule": "linear"},
               {"reflect_padding": 4}]
)  # fmt: skip
def test_another_recipe_would_be_seen(tiny_dataset, change):
    config = configure(**RECIPES["well"]).replace(batch_size=10, epochs=2, train_size=50)
    found = fit(slow.InFloat64(config), tiny_dataset, config.replace(**change)).losses
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(found, slow.train(config, tiny_dataset, slow.InFloat64(config))[0], rtol=1e-6)


@pytest.mark.parametrize("change", [{"loss": "cross_entropy"}, {"l1": 2e-3}, {"optimizer": "adam"}])
def test_another_loss_would_be_seen(tiny_dataset, change):
    config = configure(**RECIPES["rmsprop"]).replace(batch_size=10, epochs=2, train_size=50)
    found = fit(slow.InFloat64(config), tiny_dataset, config.replace(**change)).losses
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(found, slow.train(config, tiny_dataset, slow.InFloat64(config))[0], rtol=1e-6)


@pytest.mark.parametrize(("model", "rtol"), [("simple_cnn", 1e-5), ("vgg_a_bn", 1e-4)])
def test_what_is_tested_and_kept_is_the_average_of_the_weights(tiny_dataset, model, rtol):
    """With batch norm's statistics; and the training itself is that without."""
    config = configure(model=model, epochs=2, batch_size=32, train_size=100, width=0.125, lr=0.02, average_decay=0.7)
    averaged, plain = (slow.InFloat64(config) for _ in range(2))
    found = fit(averaged, tiny_dataset, config)
    assert np.array_equal(found.losses, fit(plain, tiny_dataset, config.replace(average_decay=0)).losses)
    _, expected = slow.train(config, tiny_dataset, slow.InFloat64(config))
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(averaged.state_dict()[name], tensor, rtol=rtol, atol=1e-7)
        moves = tensor.is_floating_point()
        assert torch.equal(tensor, plain.state_dict()[name]) is not moves, name
    logits = predict(averaged, tiny_dataset.test_images, "float32")
    assert torch.equal(logits, found.logits)
    assert found.history.test_loss.iloc[-1] == loss_and_accuracy(logits, tiny_dataset.test_labels)[0]


def test_a_path_is_that_of_the_average(tiny_dataset):
    model = build_model("simple_cnn")
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    config = configure(epochs=3, lr=0.05, average_decay=0.9, keep_path=True)
    path = fit(model, tiny_dataset, config).path
    moved = before - torch.cat([p.detach().flatten() for p in model.parameters()])
    along = [moved @ torch.cat([part.flatten() for part in direction]) for direction in path.directions]
    np.testing.assert_allclose(path.coordinates[0], along, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("model", "recipe"), [("resnet6", "well"), ("fast_cnn", "muon"), ("resnet6", "adamw"), ("simple_cnn", "dropout")]
)
def test_from_a_checkpoint_in_the_middle_the_rest_is_the_same_bit_for_bit(
    tiny_dataset, tmp_path, monkeypatch, model, recipe, precision
):
    monkeypatch.setattr(training, "CHECKPOINT_SHARE", float("inf"))
    shape = {"model": model, "width": 0.125, "epochs": 4, "train_size": 48, "batch_size": 32, "precision": precision}
    config = configure(**shape, **RECIPES[recipe], tta=True)
    whole, begun, resumed = (build_model(model, 0, 0.125) for _ in range(3))
    expected = fit(whole, tiny_dataset, config)
    fit(begun, tiny_dataset, config, tmp_path / "checkpoint.pt", stop_after=1)
    fit(begun, tiny_dataset, config, tmp_path / "checkpoint.pt", stop_after=3)
    found = fit(resumed, tiny_dataset, config, tmp_path / "checkpoint.pt")
    timeless = [trained.history.drop(columns=["seconds", "images_per_s"]) for trained in (found, expected)]
    assert timeless[0].equals(timeless[1])
    assert np.array_equal(found.losses, expected.losses)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.tta_logits, expected.tta_logits)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_test_time_augmentation_stands_beside_the_plain_accuracy(tiny_dataset):
    config = configure(lr=0.02)
    plain = fit(build_model("simple_cnn"), tiny_dataset, config)
    found = fit(model := build_model("simple_cnn"), tiny_dataset, config.replace(tta=True))
    assert plain.tta_logits is None
    assert "tta_accuracy" not in plain.history
    assert found.history.test_accuracy.equals(plain.history.test_accuracy)
    assert torch.equal(found.logits, plain.logits)
    torch.testing.assert_close(found.tta_logits, predict_with_views(model, tiny_dataset.test_images, "float32"))
    before, last = found.history.tta_accuracy
    assert math.isnan(before)
    assert last == (found.tta_logits.argmax(1) == tiny_dataset.test_labels).sum().item() / 64


def test_a_network_with_whitening_takes_it_from_the_images_that_it_trains_on(tiny_dataset):
    config = configure(**FAST, epochs=1, train_size=64, validation_size=32)
    fit(model := build_model("fast_cnn", 0, 0.125), tiny_dataset, config)
    expected = build_model("fast_cnn", 0, 0.125)
    set_whitening(expected, normalize(tiny_dataset.train_images[:32]))
    assert torch.equal(model.features[0].weight, expected.features[0].weight)


@pytest.mark.parametrize("changes", [{"schedule": "cosine"}, {"schedule": "one_cycle"}, {"lr": 1.001e-3}, {"seed": 1}])
def test_another_schedule_or_seed_would_be_seen(tiny_dataset, monkeypatch, changes):
    """The engine trains with the changes, from the same weights; the slow loop without."""
    changed = configure(**changes)
    for name in ("make_schedule", "make_optimizer"):
        make = getattr(training, name)
        monkeypatch.setattr(training, name, lambda x, c, *rest, make=make: make(x, c.replace(**changes), *rest))
    monkeypatch.setattr(training, "epoch_generator", lambda _, epoch: data.epoch_generator(changed.seed, epoch))
    found, expected = fifty_losses(tiny_dataset, configure())
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_after_the_smoke_schedule_the_accuracy_is_that_of_a_slow_plain_loop():
    dataset = load("synthetic")
    (config,) = sections.configs("simple_cnn", "smoke")
    _, model = slow.train(config, dataset)
    labels = dataset.test_labels[: config.test_size]
    right = (model.eval()(normalize(dataset.test_images[: config.test_size])).argmax(1) == labels).sum().item()
    for precision, images in {"float32": 0, "bfloat16": 5}.items():  # by how many of 500 it may differ
        history, *_ = fit(build_model("simple_cnn", config.seed), dataset, config.replace(precision=precision))
        assert abs(history.test_accuracy.iloc[-1] * len(labels) - right) <= images + 1e-6


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_same_seed_same_history_bit_for_bit(tiny_dataset, precision):
    config = configure(model="resnet6", train_size=40, batch_size=16, augment=True, precision=precision)
    results = [fit(build_model("resnet6", 0), tiny_dataset, config) for _ in range(2)]
    timeless = [history.drop(columns=["seconds", "images_per_s"]) for history, *_ in results]
    assert timeless[0].equals(timeless[1])
    assert np.array_equal(results[0][1], results[1][1])


def test_another_seed_gives_another_history(tiny_dataset):
    losses = [fit(build_model("simple_cnn", s), tiny_dataset, configure(seed=s))[1] for s in (0, 1)]
    assert not np.array_equal(*losses)


def test_history_agrees_with_the_losses_and_with_the_model(tiny_dataset):
    config = configure(lr=0.02, schedule="cosine", test_size=50)
    model = build_model("simple_cnn", 0)
    history, losses, wall, *_ = fit(model, tiny_dataset, config)
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


def test_images_held_out_are_the_last_and_are_not_trained_on(tiny_dataset):
    held_out = fit(model := build_model("simple_cnn", 0), tiny_dataset, configure(train_size=128, validation_size=28))
    fewer = fit(build_model("simple_cnn", 0), tiny_dataset, configure(train_size=100))
    assert held_out.losses.tolist() == fewer.losses.tolist()
    assert "validation_loss" not in fewer.history
    logits = predict(model, tiny_dataset.train_images[100:128], "float32")
    loss, accuracy = loss_and_accuracy(logits, tiny_dataset.train_labels[100:128])
    last = held_out.history.iloc[-1]
    assert (last.validation_loss, last.validation_accuracy) == (pytest.approx(loss), accuracy)


def test_something_is_left_to_train_on(tiny_dataset):
    with pytest.raises(ConfigError, match="validation_size"):
        configure(train_size=100, validation_size=100)
    with pytest.raises(ConfigError, match=r"validation_size: 256 of 256 images leave none"):
        split(tiny_dataset, configure(validation_size=256))


def test_train_size_takes_the_first_images(tiny_dataset):
    _, some, *_ = fit(build_model("simple_cnn", 0), tiny_dataset, configure(train_size=128))
    _, beyond, *_ = fit(build_model("simple_cnn", 0), tiny_dataset, configure(train_size=10_000))
    assert (len(some), len(beyond)) == (2 * 2, 2 * 3)


def test_bfloat16_stays_near_float32(tiny_dataset):
    config = configure(model="resnet6", train_size=40, batch_size=16)
    runs = [fit(build_model("resnet6", 0), tiny_dataset, config.replace(precision=p))[1]
            for p in ("float32", "bfloat16")]  # fmt: skip
    np.testing.assert_allclose(*runs, rtol=0.05)
    assert not np.array_equal(*runs)


def test_a_run_that_diverges_stops_and_says_so_in_its_losses(tiny_dataset):
    history, losses, _, *_ = fit(build_model("simple_cnn", 0), tiny_dataset, configure(lr=1e9, epochs=5))
    assert len(history) < 5
    assert not np.isfinite(losses).all()


def test_a_run_that_diverges_later_has_a_path_of_nothing(tiny_dataset):
    """Of its snapshots the first are finite, the last are not."""
    config = configure(lr=6, epochs=6, schedule="triangle", loss="mse", keep_path=True)
    trained = fit(build_model("simple_cnn", 0), tiny_dataset, config)
    assert 1 < len(trained.history) < 6
    assert np.isnan(trained.path.coordinates).all()


def test_it_learns(tiny_dataset):
    history, *_ = fit(
        build_model("simple_cnn", 0), tiny_dataset, configure(epochs=60, lr=2e-3, optimizer="adam", batch_size=32)
    )
    assert history.train_accuracy.iloc[-1] > 0.9  # 256 random images can be learnt by heart


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("along", [("gradient",), ("step",), ("step", "gradient")])
@pytest.mark.parametrize("recipe", ["sgd", "adam"])
def test_probes_do_not_disturb_the_run(tiny_dataset, recipe, along, precision):
    config = configure(model="vgg_a_bn", **RECIPES[recipe], train_size=64, width=0.25)
    config = config.replace(batch_size=16, precision=precision)
    plain_model, probed_model = (build_model("vgg_a_bn", 0, config.width) for _ in range(2))
    plain = fit(plain_model, tiny_dataset, config)
    probed = fit(probed_model, tiny_dataset, config.replace(probe_every=3, probe_points=2, probe_along=along))
    assert np.array_equal(plain.losses, probed.losses)
    assert plain.history.test_loss.equals(probed.history.test_loss)
    for name, tensor in plain_model.state_dict().items():
        assert torch.equal(tensor, probed_model.state_dict()[name]), name
    assert plain.probes is None
    assert [*probed.probes][:2] == ["step", "along"]
    assert probed.probes["along"].tolist() == [*along] * 3
    for _, walked in probed.probes.groupby("along"):
        assert walked["step"].tolist() == [0, 3, 6]
        # The walk begins where the step does: its loss there is the step's.
        rtol = 1e-6 if precision == "float32" else 0.02
        np.testing.assert_allclose(walked["loss"], plain.losses[[0, 3, 6]], rtol=rtol)
    assert (probed.probes["beta"] > 0).all()


def test_walks_are_in_float32_whatever_the_run_trains_in(tiny_dataset):
    """From the same weights and batch: at the first step, that is."""
    config = configure(model="resnet6", train_size=32, epochs=1, probe_every=1, probe_along=("gradient", "step"))
    runs = [fit(build_model("resnet6", 0), tiny_dataset, config.replace(precision=p)) for p in ("float32", "bfloat16")]
    assert not np.array_equal(runs[0].losses, runs[1].losses)
    pd.testing.assert_frame_equal(runs[0].probes, runs[1].probes, check_exact=True)


def test_the_path_begins_with_the_initial_weights_and_ends_with_the_last(tiny_dataset):
    model = build_model("simple_cnn", 0)
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    config = configure(epochs=3, lr=0.05)
    path = fit(model, tiny_dataset, config.replace(keep_path=True)).path
    assert path.coordinates.shape == (4, 2)
    moved = before - torch.cat([p.detach().flatten() for p in model.parameters()])
    along = [moved @ torch.cat([part.flatten() for part in direction]) for direction in path.directions]
    np.testing.assert_allclose(path.coordinates[0], along, rtol=1e-3, atol=1e-5)
    assert fit(build_model("simple_cnn", 0), tiny_dataset, config).path is None


def test_noise_repeats_with_the_seed(tiny_dataset):
    config = configure(model="vgg_a_noisy_bn", train_size=32, batch_size=16)
    first, second = (fit(build_model("vgg_a_noisy_bn", 0), tiny_dataset, config).losses for _ in range(2))
    assert np.array_equal(first, second)
    without = fit(build_model("vgg_a_bn", 0), tiny_dataset, config.replace(model="vgg_a_bn")).losses
    assert not np.allclose(first, without, rtol=1e-3)


def test_dropout_repeats_with_the_seed(tiny_dataset):
    config = configure(dropout=0.5, train_size=32, batch_size=16)
    first, second = (fit(build_model(**config.network()), tiny_dataset, config).losses for _ in range(2))
    assert np.array_equal(first, second)
    without = fit(build_model("simple_cnn"), tiny_dataset, config.replace(dropout=0)).losses
    assert not np.allclose(first, without, rtol=1e-3)


def test_the_loop_is_on_one_screen():
    """What a student looks for stands in ``fit``; all else is a handful of small functions."""
    tree = ast.parse(Path(training.__file__).read_text(encoding="utf-8"))
    lines = {node.name: node.end_lineno - node.lineno + 1 for node in ast.walk(tree) if hasattr(node, "args")
             and hasattr(node, "name")}  # fmt: skip
    assert {"fit", "forward", "train_step", "measure"} <= set(lines)
    assert lines.pop("fit") <= 60
    assert max(lines.values()) <= 45


@pytest.mark.parametrize(("seconds", "written"), [(1.0, list(range(1, 12))), (9.0, [1, 6, 11])])
def test_checkpoints_take_two_percent_of_the_time_at_most(tiny_dataset, tmp_path, monkeypatch, seconds, written):
    """By a clock on which an epoch takes 100 s, and writing as long as said."""
    now, epochs = [0.0], []

    def read():
        now[0] += 1e-6
        return now[0]

    def evaluate(model, images, precision):
        now[0] += 100
        return torch.zeros(len(images), 10)

    def save(state, path):
        now[0] += seconds
        epochs.append(len(state["history"]))
        path.touch()

    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=read))
    monkeypatch.setattr(training, "predict", evaluate)
    monkeypatch.setattr(training.torch, "save", save)
    fit(build_model("simple_cnn", 0), tiny_dataset, configure(epochs=12), tmp_path / "checkpoint.pt")
    assert epochs == written


@pytest.fixture
def recording(monkeypatch):
    """A stand-in for CUDA graphs on a CPU: after two calls the step is traced once, and its kernels replayed.

    Values that the CPU holds are frozen in such a trace as they are in a CUDA graph.  Returns the traces.
    """
    traces = []

    def replayed(function, device):
        graphs, calls = {}, Counter()

        def call(size):
            calls[size] += 1
            if size in graphs:
                with torch.no_grad():  # the trace holds the backward pass
                    graphs[size](torch.zeros(1))
            elif calls[size] <= 2:
                function(size)
            else:
                graphs[size] = make_fx(lambda x: (function(size), x)[1])(torch.zeros(1))  # runs it, too
                traces.append(graphs[size].graph)

        return call

    def keep_lr_in_a_tensor(device, optimizer):
        optimizer.param_groups[0]["lr"] = torch.tensor(float(optimizer.param_groups[0]["lr"]))

    monkeypatch.setattr(training, "replayed", replayed)
    monkeypatch.setattr(training, "keep_lr_on", keep_lr_in_a_tensor)
    return traces


@pytest.mark.parametrize("recipe", ["sgd", "nesterov", "adam", "well"])
def test_a_recorded_step_computes_the_same(tiny_dataset, recording, recipe):
    shape = {"model": "resnet6", "epochs": 4, "train_size": 80, "batch_size": 32}
    # Adam's first steps are as long for a gradient that is all rounding as for any other.
    config = configure(**shape, **RECIPES[recipe]).replace(lr=1e-4 if recipe == "adam" else 1e-3, augment=True)
    model = build_model("resnet6", 0)
    _, losses, *_ = fit(model, tiny_dataset, config)
    assert len(recording) == 2  # a whole batch, and the smaller one at the end
    expected, plain = slow.train(config, tiny_dataset)
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
    if config.average_decay:
        for name, tensor in plain.state_dict().items():
            torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-2, atol=1e-3)


def test_a_recorded_step_of_muon_computes_the_same_and_never_waits_for_the_device(tiny_dataset, recording):
    config = configure(**FAST, **RECIPES["muon"]).replace(epochs=4, train_size=80, batch_size=32, average_decay=0.9)
    _, losses, *_ = fit(build_model("fast_cnn", 0, 0.125), tiny_dataset, config)
    assert len(recording) == 2
    assert not kernels_of(recording[0]) & WAITING
    np.testing.assert_allclose(losses, slow.train(config, tiny_dataset)[0], rtol=1e-3)


def test_a_recorded_step_follows_the_learning_rate(tiny_dataset, recording, monkeypatch):
    """The test above would see a rate that is frozen in the record."""
    monkeypatch.setattr(training, "keep_lr_on", lambda device, optimizer: None)
    config = configure(epochs=4, optimizer="sgd", lr=0.05, schedule="cosine")
    _, losses, *_ = fit(build_model("simple_cnn", 0), tiny_dataset, config)
    assert not np.allclose(losses, slow.train(config, tiny_dataset)[0], rtol=1e-4)


WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "item"}


def kernels_of(trace):
    return {str(node.target).removeprefix("aten.").split(".")[0] for node in trace.nodes}


def test_the_step_never_waits_for_the_device(tiny_dataset, recording):
    """No kernel of it brings a value to the CPU, or makes a tensor whose size only the device knows."""
    config = configure(model="vgg_a_bn", epochs=3, train_size=32, batch_size=16, **RECIPES["well"])
    fit(build_model("vgg_a_bn", 0), tiny_dataset, config)
    kernels = kernels_of(recording[0])
    assert {"convolution", "native_batch_norm", "_fused_sgd_"} <= kernels
    assert not kernels & WAITING


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(("precision", "rtol"), [("float32", 1e-3), ("bfloat16", 0.05)])
@pytest.mark.parametrize(
    ("model", "recipe"),
    [
        *[
            (model, {"lr": 1e-3, "augment": True, "schedule": "cosine"})
            for model in ("simple_cnn", "resnet6", "vgg_a_bn")
        ],
        ("resnet6", RECIPES["well"]),
        ("fast_cnn", RECIPES["muon"]),
    ],
)
def test_cuda_graphs_give_the_losses_of_the_slow_plain_loop(tiny_dataset, model, recipe, precision, rtol):
    config = configure(model=model, epochs=4, batch_size=50, **recipe)
    config = config.replace(device="cuda", precision=precision)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # so a graph that cannot be recorded fails the test
        _, losses, *_ = fit(build_model(model, 0), tiny_dataset, config)
    np.testing.assert_allclose(losses, slow.train(config, tiny_dataset)[0], rtol=rtol)


def test_schedules_are_stepped_as_documented():
    optimizer = make_optimizer(build_model("simple_cnn"), configure())
    assert make_schedule(optimizer, configure(), 3) == (None, False)
    assert make_schedule(optimizer, configure(schedule="cosine"), 3)[1] is False
    for schedule in ("one_cycle", "triangle", "linear"):
        assert make_schedule(optimizer, configure(schedule=schedule), 3)[1] is True


@pytest.mark.skipif("CIFARNB_DATA" not in os.environ, reason="no real CIFAR-10 at hand: CIFARNB_DATA is not set")
def test_two_epochs_on_real_data_pass_45_percent():
    dataset = load("cifar10")
    assert dataset.is_cifar10
    config = Config(model="simple_cnn", epochs=2, lr=1e-2, batch_size=64)
    history, *_ = fit(build_model("simple_cnn", 0), dataset, config)
    assert history.test_accuracy.iloc[-1] > 0.45
