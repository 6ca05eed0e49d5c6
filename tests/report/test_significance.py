import math

import numpy as np
import pytest
from scipy import stats

from cifarnb.report.significance import (
    accuracy,
    counted,
    mcnemar,
    mean_and_interval,
    paired_difference,
    sampling_difference,
    sampling_interval,
    seed_difference,
    spread,
)


@pytest.mark.parametrize("values", [[0.1, 0.3], [0.7, 0.71, 0.69, 0.75]])
def test_the_interval_is_students(values):
    expected = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert mean_and_interval(values)["ci95"] == pytest.approx(expected)
    assert mean_and_interval(values)["mean"] == pytest.approx(np.mean(values))


def test_a_single_value_has_no_interval():
    assert mean_and_interval([0.4]) == {"mean": 0.4, "ci95": None, "values": [0.4]}


def test_equal_values_have_an_interval_without_width():
    assert mean_and_interval([0.5, 0.5])["ci95"] == [0.5, 0.5]


def test_a_paired_difference_is_students_over_the_seeds_that_both_have():
    a, b = {0: 0.81, 1: 0.83, 2: 0.9}, {1: 0.80, 0: 0.80, 5: 0.1}
    expected = stats.ttest_rel([0.81, 0.83], [0.80, 0.80]).confidence_interval(0.95)
    found, interval = paired_difference(a, b, 100)
    assert found == pytest.approx(0.02)
    assert interval == pytest.approx((expected.low, expected.high))
    assert paired_difference({1: 0.8}, b, 100) == (0.0, pytest.approx(sampling_difference(0.8, 0.8, (100, 100))))


def test_the_difference_between_seeds_is_welchs():
    a, b = [0.81, 0.83, 0.82], [0.78, 0.81]
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert seed_difference(a, b) == pytest.approx((expected.low, expected.high))
    assert seed_difference([1.0, 1.0], [0.5, 0.5]) == (0.5, 0.5)


def test_the_sampling_interval_covers_the_true_accuracy_as_often_as_it_says():
    drawn = np.random.default_rng(0).binomial(10_000, 0.77, 400) / 10_000
    covered = [low <= 0.77 <= high for low, high in (sampling_interval(p, 10_000) for p in drawn)]
    assert 0.92 <= np.mean(covered) <= 0.98


def test_the_sampling_difference_is_nearly_the_normal_approximation():
    low, high = sampling_difference(0.80, 0.78, (10_000, 10_000))
    half = 1.96 * math.sqrt(0.8 * 0.2 / 10_000 + 0.78 * 0.22 / 10_000)
    assert (low, high) == pytest.approx((0.02 - half, 0.02 + half), abs=1e-4)
    assert sampling_difference(1.0, 1.0, (64, 64))[0] < 0 < sampling_difference(1.0, 1.0, (64, 64))[1]


def test_mcnemar_counts_the_images_that_one_alone_has_right():
    right_a = np.array([True] * 90 + [False] * 10)
    right_b = np.array([True] * 80 + [False] * 10 + [True] * 2 + [False] * 8)
    assert mcnemar(right_a, right_b) == pytest.approx(2 * sum(math.comb(12, k) for k in range(3)) / 2**12)
    assert mcnemar(right_a, right_a) == 1.0


def test_a_measure_is_written_with_half_its_interval():
    assert spread(mean_and_interval([1234.5])) == "1,230"
    # mean 3, deviation √7, t(0.975, 2) = 4.3027: 4.3027 · √7 / √3 = 6.5725
    assert spread(mean_and_interval([1.0, 2.0, 6.0])) == "3 ± 6.6"
    assert spread(mean_and_interval([1.0, math.inf])) == "inf"
    assert accuracy(mean_and_interval([0.8158])) == "81.58%"
    assert [counted(number, "epoch") for number in (0, 1, 2, 1_955)] == [
        "0 epochs",
        "1 epoch",
        "2 epochs",
        "1,955 epochs",
    ]
    assert accuracy({"mean": 0.5, "ci95": [0.475, 0.525]}) == "50.00 ± 2.50%"
