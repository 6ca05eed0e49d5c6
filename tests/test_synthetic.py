import time

import numpy as np
import pytest

from cifarnb.config import Config
from cifarnb.data import load
from cifarnb.models import build_model
from cifarnb.synthetic import CLASSES, make_synthetic
from cifarnb.training import fit


@pytest.fixture(scope="module")
def arrays():
    return make_synthetic()


def test_shapes_types_and_balance(arrays):
    x_train, y_train, x_test, y_test = arrays
    assert (x_train.shape, x_test.shape) == ((10_000, 32, 32, 3), (2_000, 32, 32, 3))
    assert {array.dtype for array in arrays} == {np.dtype(np.uint8)}
    assert np.bincount(y_train).tolist() == [1_000] * 10
    assert np.bincount(y_test).tolist() == [200] * 10
    assert len(set(CLASSES)) == 10


def test_made_from_a_seed_in_under_five_seconds(arrays):
    started = time.process_time()
    again = make_synthetic()
    assert time.process_time() - started < 5
    for first, second in zip(arrays, again, strict=True):
        assert np.array_equal(first, second)
    assert not np.array_equal(arrays[0][:100], make_synthetic(1, 100, 10)[0])


def test_no_image_stands_twice(arrays):
    images = [image.tobytes() for image in np.concatenate([arrays[0], arrays[2]])]
    assert len(set(images)) == len(images)


def test_a_linear_model_stays_under_60_percent(arrays):
    """Ridge regression on the pixels in closed form, with the penalty that is best on the test images."""
    x_train, y_train, x_test, y_test = arrays
    x, x_new = (images.reshape(len(images), -1) / 127.5 - 1 for images in (x_train, x_test))
    mean = x.mean(0)
    gram, moments = (x - mean).T @ (x - mean), (x - mean).T @ (np.eye(10)[y_train] - 0.1)
    accuracies = []
    for penalty in (1e2, 1e3, 1e4):
        weights = np.linalg.solve(gram + penalty * np.eye(len(gram)), moments)
        accuracies.append((((x_new - mean) @ weights).argmax(1) == y_test).mean())
    assert 0.15 < max(accuracies) < 0.6  # it learns something, too


def test_a_residual_network_clearly_beats_the_simple_cnn():
    dataset = load("synthetic")
    shared = {"epochs": 3, "test_size": 1_000}
    configs = [
        Config(model="simple_cnn", lr=0.01, **shared),
        Config(model="resnet6", optimizer="adam", lr=1e-3, schedule="cosine", **shared),
    ]
    histories = [fit(build_model(config.model), dataset, config)[0] for config in configs]
    simple, residual = (history.test_accuracy.iloc[-1] for history in histories)
    assert residual > simple + 0.15
