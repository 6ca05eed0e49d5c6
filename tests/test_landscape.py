import math

import numpy as np
import pytest

from cifarnb.landscape import envelope

INF, NAN = math.inf, math.nan


def check(losses, low, high):
    found = envelope([np.array(run, dtype=np.float32) for run in losses])
    np.testing.assert_array_equal(found, (low, high))


def test_known_curves():
    check([[3, 2, 1], [1, 2, 3], [2, 2, 2.5]], [1, 2, 1], [3, 2, 3])


def test_a_single_run_is_its_own_envelope():
    check([[3, 1, 2]], [3, 1, 2], [3, 1, 2])


def test_steps_that_not_all_runs_reached_are_left_out():
    check([[3, 2, 1, 0], [1, 5], [2, 2, 2]], [1, 2], [3, 5])


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_loss_that_is_not_finite_opens_the_band_upwards(bad):
    check([[3, bad, 1], [1, 2, 3]], [1, 2, 1], [3, INF, 3])
    check([[bad], [bad]], [INF], [INF])


def test_the_losses_themselves_are_left_alone():
    losses = [np.array([1.0, NAN]), np.array([2.0, 3.0, 4.0])]
    envelope(losses)
    np.testing.assert_array_equal(losses[0], [1, NAN])
    assert len(losses[1]) == 3


def test_it_agrees_with_a_plain_loop():
    runs = np.random.default_rng(0).random((4, 50))
    check(
        runs,
        [min(column) for column in runs.T.astype(np.float32)],
        [max(column) for column in runs.T.astype(np.float32)],
    )
