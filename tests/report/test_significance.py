import math

import numpy as np
import pytest
from scipy import stats

from cifarnb.report.significance import (
    accuracy,
    beats_guessing,
    corrected_intervals,
    corrected_sampling,
    counted,
    error_in_blocks,
    holm_levels,
    listed,
    mcnemar,
    mean_and_interval,
    nats,
    paired_difference,
    points,
    positive,
    ratio_interval,
    sampling_difference,
    sampling_interval,
    sampling_p_value,
    seed_difference,
    significant,
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


def test_the_ratio_of_several_seeds_is_welchs_and_of_single_ones_a_threshold():
    def of(a, b):
        return ratio_interval(mean_and_interval(a), mean_and_interval(b))

    a, b = [2.0, 2.2, 2.1], [1.0, 1.5, 1.2]
    interval, words = of(a, b)
    assert interval == pytest.approx(seed_difference(np.log(a), np.log(b)))
    assert "Welch" in words
    interval, words = of([3.0], [2.0])
    assert interval == pytest.approx((math.log(1.5) - math.log(1.25), math.log(1.5) + math.log(1.25)))
    assert words == "single or diverged runs: a ratio below 1.25 counts as noise"
    assert of([math.inf], [2.0])[0][0] == math.inf
    assert of([math.inf], [math.inf])[0] == (-math.inf, math.inf)


def test_a_positive_measure_whose_interval_reaches_0_is_told_by_its_values():
    assert positive(mean_and_interval([1.0, 2.0, 6.0])) == "3 (1, 2, 6)"  # 3 ± 6.6
    assert positive(mean_and_interval([2.9, 3.0, 3.1])) == spread(mean_and_interval([2.9, 3.0, 3.1])) == "3 ± 0.25"
    assert positive(mean_and_interval([0.5])) == "0.5"
    with np.errstate(invalid="ignore"):
        assert positive(mean_and_interval([math.inf, 1.0])) == "not finite (not finite, 1)"
        assert (
            positive(mean_and_interval([math.inf, math.inf])) == positive(mean_and_interval([math.inf])) == "not finite"
        )
    assert positive(mean_and_interval([0.1, 0.5]), accuracy) == "30.00% (10.00%, 50.00%)"
    assert positive(mean_and_interval([0.49, 0.51]), accuracy) == "50.00 ± 12.71%"


def test_words_are_listed_once_each():
    assert listed(["a"]) == listed(["a", "a"]) == "a"
    assert listed(["b", "a", "b"]) == "b and a"
    assert listed("abac") == "a, b and c"


def test_the_sampling_interval_covers_the_true_accuracy_as_often_as_it_says():
    drawn = np.random.default_rng(0).binomial(10_000, 0.77, 400) / 10_000
    covered = [low <= 0.77 <= high for low, high in (sampling_interval(p, 10_000) for p in drawn)]
    assert 0.92 <= np.mean(covered) <= 0.98


def test_the_sampling_difference_is_nearly_the_normal_approximation():
    low, high = sampling_difference(0.80, 0.78, (10_000, 10_000))
    half = 1.96 * math.sqrt(0.8 * 0.2 / 10_000 + 0.78 * 0.22 / 10_000)
    assert (low, high) == pytest.approx((0.02 - half, 0.02 + half), abs=1e-4)
    assert sampling_difference(1.0, 1.0, (64, 64))[0] < 0 < sampling_difference(1.0, 1.0, (64, 64))[1]


def test_an_accuracy_beats_guessing_where_wilsons_interval_does():
    assert beats_guessing(0.12, 10_000, 10)
    assert not beats_guessing(0.12, 10_000, 5)
    assert not beats_guessing(0.12, 100, 10)  # Wilson's interval begins at 0.07


@pytest.mark.parametrize(("a", "b", "images"), [(0.8, 0.78, 10_000), (0.78, 0.8, 500), (0.5, 0.25, 64)])
def test_newcombes_p_value_is_where_its_interval_reaches_0(a, b, images):
    p = sampling_p_value(a, b, (images, images))
    low, high = sampling_difference(a, b, (images, images), 1 - p)
    assert (low if a > b else high) == pytest.approx(0, abs=1e-9)
    share = (a + b) / 2
    z = abs(a - b) / math.sqrt(share * (1 - share) * 2 / images)
    assert p == pytest.approx(2 * stats.norm.sf(z), rel=0.12)  # of the test with a common share, nearly the same
    assert sampling_p_value(b, a, (images, images)) == pytest.approx(p)


def test_newcombes_p_value_at_its_ends():
    assert sampling_p_value(0.5, 0.5, (64, 64)) == 1
    assert 0 <= sampling_p_value(0.9, 0.1, (10_000, 10_000)) <= 1e-11


@pytest.mark.parametrize(
    ("p_values", "parts"),  # of 5 %: Holm's example has the smallest at a third, the next at a half, the last whole
    [
        ([0.01, 0.02, 0.04], [3, 2, 1]),
        ([0.04, 0.01, 0.02], [1, 3, 2]),
        ([0.03, 0.01, 0.026], [2, 3, 2]),  # 0.026 is not below a half, so 0.03 is not tested at the whole
        ([0.02, 0.03, 0.04], [3, 3, 3]),
        ([0.2], [1]),
        ([], []),
    ],
)
def test_holm_goes_up_to_the_first_that_is_not_rejected(p_values, parts):
    assert holm_levels(p_values) == pytest.approx([0.05 / part for part in parts])


def test_the_spread_in_blocks_is_what_means_of_rows_and_blocks_leave():
    values = np.random.default_rng(0).normal(size=(4, 3)) + np.array([[0.0], [5], [1], [2]]) + np.array([10.0, 20, 30])
    # Least squares on indicators of rows and blocks, and its residual variance.
    rows, blocks = (indices.ravel() for indices in np.indices(values.shape))
    design = np.column_stack([rows == row for row in range(4)] + [blocks == block for block in range(1, 3)]).astype(
        float
    )
    _, (residual,), rank, _ = np.linalg.lstsq(design, values.ravel(), rcond=None)
    assert rank == 6
    error, freedom = error_in_blocks(values)
    assert freedom == 12 - 6
    assert error == pytest.approx(math.sqrt(residual / freedom * (1 / 3 + 1 / 3)))


def test_two_rows_in_blocks_are_students_paired_test():
    a, b = [0.81, 0.83, 0.9], [0.80, 0.80, 0.85]
    found = stats.ttest_rel(a, b)
    (interval,) = corrected_intervals([float(np.mean(a) - np.mean(b))], *error_in_blocks(np.array([a, b])))
    expected = found.confidence_interval(0.95)
    assert interval == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("seed", range(4))
def test_a_corrected_interval_leaves_out_0_exactly_where_holm_rejects(seed):
    rng = np.random.default_rng(seed)
    differences = rng.normal(scale=0.03, size=12).tolist()
    p_values = [2 * stats.t.sf(abs(difference) / 0.01, 20) for difference in differences]
    rejected, alive = [False] * 12, True
    for k, index in enumerate(sorted(range(12), key=lambda i: p_values[i])):
        alive = alive and p_values[index] <= 0.05 / (12 - k)
        rejected[index] = alive
    intervals = corrected_intervals(differences, 0.01, 20)
    assert [low > 0 or high < 0 for low, high in intervals] == rejected
    assert 0 < sum(rejected) < 12
    accuracies = [round(0.6 + difference, 4) for difference in differences]
    singles = corrected_sampling(accuracies, 0.6, 10_000)
    p_values = [sampling_p_value(accuracy, 0.6, (10_000, 10_000)) for accuracy in accuracies]
    levels = holm_levels(p_values)
    assert [low > 0 or high < 0 for low, high in singles] == [p < at for p, at in zip(p_values, levels, strict=True)]


def test_differences_without_a_spread_are_certain():
    assert corrected_intervals([0.1, 0.0], 0.0, 4) == [(0.1, 0.1), (0.0, 0.0)]


def test_mcnemar_counts_the_images_that_one_alone_has_right():
    right_a = np.array([True] * 90 + [False] * 10)
    right_b = np.array([True] * 80 + [False] * 10 + [True] * 2 + [False] * 8)
    assert mcnemar(right_a, right_b) == pytest.approx(2 * sum(math.comb(12, k) for k in range(3)) / 2**12)
    assert mcnemar(right_a, right_a) == 1.0


def test_a_measure_is_written_with_half_its_interval():
    assert spread(mean_and_interval([1234.5])) == "1,230"
    # mean 3, deviation √7, t(0.975, 2) = 4.3027: 4.3027 · √7 / √3 = 6.5725
    assert spread(mean_and_interval([1.0, 2.0, 6.0])) == "3 ± 6.6"
    assert spread(mean_and_interval([1.0, math.inf])) == "not finite"
    assert significant(math.nan) == significant(math.inf) == nats(math.nan) == nats(-math.inf) == "not finite"
    assert (nats(2.3026), nats(0.0)) == ("2.30", "0.00")
    assert accuracy(mean_and_interval([0.8158])) == "81.58%"
    assert [counted(number, "epoch") for number in (0, 1, 2, 1_955)] == [
        "0 epochs",
        "1 epoch",
        "2 epochs",
        "1,955 epochs",
    ]
    assert accuracy({"mean": 0.5, "ci95": [0.475, 0.525]}) == "50.00 ± 2.50%"
    assert points(0.012, (0.008, 0.016)) == "+1.20 (+0.80 to +1.60)"
    assert spread(mean_and_interval([-0.000148])) == "−0.000148"
    assert points(-0.012, (-0.03, 0.006)) == "−1.20 (−3.00 to +0.60)"
