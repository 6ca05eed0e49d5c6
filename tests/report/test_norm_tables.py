import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cifarnb.models import LABELS
from cifarnb.report import norm_tables, walks
from cifarnb.report.claims import NOT_COMPARABLE
from cifarnb.report.significance import mean_and_interval

NAN, INF = math.nan, math.inf


def rows(table):
    """First cell → the others."""
    return {first: (*others,) for first, *others in table.itertuples(index=False)}


def test_the_width_of_the_bands():
    described = {
        "vgg_a": {
            "median_band_width": {"mean": 0.5, "ci95": [0.4, 0.6]},
            "late_band_width": {"mean": 0.25, "ci95": None},
            "maximum_band_width": mean_and_interval([math.inf, math.inf]),
        }
    }
    widths = {
        "width of the band, median over the steps": ("0.5 ± 0.1",),
        "width of the band, median over the second half": ("0.25",),
        "width of the band, maximum": ("not finite",),
    }
    assert rows(norm_tables.landscape(described)) == widths
    unsteady = {"loss_fluctuation": mean_and_interval([0.0474, 0.0476]), "lr": 5e-4}
    assert rows(norm_tables.landscape(described, {"vgg_a": unsteady})) == widths | {
        "deviation of the loss within 50 steps of a run (learning rate 0.0005, 2 seeds)": ("0.0475 ± 0.0013",)
    }


def test_rates_at_which_the_network_with_batch_norm_is_not_ahead_are_listed():
    normed = {"0.001": [0.8], "0.0001": [0.74, 0.75], "0.01": [0.5], "1e-05": [0.3]}
    plain = {"0.001": [0.7], "0.0001": [0.8], "0.01": [0.5], "0.1": [0.9]}
    described = {"vgg_a_bn": {"final_accuracy": normed}, "vgg_a": {"final_accuracy": plain}}
    assert norm_tables.not_ahead(described) == ["0.0001 (74.50 ± 6.35% against 80.00%)", "0.01 (50.00% against 50.00%)"]
    assert (
        norm_tables.not_ahead({"vgg_a_bn": {"final_accuracy": {"1": [0.5]}}, "vgg_a": {"final_accuracy": {"1": [0.4]}}})
        == []
    )


def test_accuracies_over_many_rates_and_seeds():
    def run(lr, accuracy, diverged=False):
        return SimpleNamespace(config=SimpleNamespace(lr=lr), final_accuracy=accuracy, diverged=diverged)

    runs = {
        "vgg_a": [run(0.1, 0.1, True), run(1e-3, 0.5), run(1e-3, 0.53), run(1e-3, 0.59), run(0.01, 0.625)],
        "vgg_a_bn": [run(1.0, 0.1, True), run(1.0, 0.1, True), run(0.1, 0.75), run(0.1, 0.1, True), run(0.01, 0.7)],
    }
    table = norm_tables.rates(runs)
    assert [*table] == ["learning rate", LABELS["vgg_a"], LABELS["vgg_a_bn"]]
    assert [*map(tuple, table.itertuples(index=False))] == [
        ("0.001", "54.00 ± 11.38%", "not run"),  # a deviation of √0.0021, times 4.3027 / √3
        ("0.01", "62.50%", "70.00%"),
        ("0.1", "diverged", "75.00% (1 diverged)"),
        ("1", "not run", "diverged"),
    ]
    apart = norm_tables.rates({"vgg_a": [run(0.1, 0.1), run(0.1, 0.5), run(0.1, 0.6)]})
    assert apart[LABELS["vgg_a"]].tolist() == ["40.00% (10.00%, 50.00%, 60.00%)"]  # ± 65.72


def probed(loss_min, loss_max, change_max, beta, learns_from=0, seed=0):
    columns = {"loss_min": loss_min, "loss_max": loss_max, "change_max": change_max, "beta": beta}
    probes = pd.DataFrame(columns | {"step": range(0, 10 * len(beta), 10)})
    losses = np.full(30, 2.0)
    return SimpleNamespace(probes=probes, learns_from=learns_from, losses=losses, config=SimpleNamespace(seed=seed))


@pytest.fixture
def one_walk_is_enough(monkeypatch):
    monkeypatch.setattr(walks, "LEAST_WALKS", 1)


def test_medians_over_the_steps_that_are_finite():
    run = probed([1.0, 1, 1, INF], [2.0, 4, INF, INF], [NAN, 3.0, 7, 8], [NAN, INF, NAN, INF])
    assert walks.median_over_steps(run, "range of the loss") == 2  # of 1 and 3
    assert walks.median_over_steps(run, "change of the gradient") == 7
    assert math.isnan(walks.median_over_steps(run, "β"))


@pytest.mark.usefixtures("one_walk_is_enough")
def test_walks_by_kind_measure_and_network():
    plain = probed([1.0, 1, 1], [2.0, 3, 9], [1234.5, 1, 5000], [0.012345] * 3)
    nothing = probed(*[[INF, NAN, NAN]] * 4)
    table = norm_tables.probes(
        {
            "steps of SGD": {"vgg_a": [plain], "vgg_a_bn": [nothing, nothing]},
            "long steps": {"vgg_a": [nothing, plain], "vgg_a_bn": [plain]},
        }
    )
    assert [*table] == ["walk", "median over the steps", "VGG-A", "VGG-A + BN"]
    assert [*map(tuple, table.itertuples(index=False))] == [
        ("steps of SGD", "range of the loss", "2", "diverged"),
        ("steps of SGD", "change of the gradient", "1,230", "diverged"),
        ("steps of SGD", "β", "0.0123", "diverged"),
        ("long steps", "range of the loss", "2 (1 diverged)", "2"),
        ("long steps", "change of the gradient", "1,230 (1 diverged)", "1,230"),
        ("long steps", "β", "0.0123 (1 diverged)", "0.0123"),
    ]


@pytest.mark.usefixtures("one_walk_is_enough")
def test_walks_over_several_seeds_have_their_interval():
    seeds = [probed([0.0], [loss], [100 * loss], [1.0]) for loss in (1.0, 2.0, 6.0)]
    # mean 3, deviation √7, t(0.975, 2) = 4.3027: 4.3027 · √7 / √3 = 6.5725, more than the mean
    assert norm_tables.probes({"steps": {"vgg_a": seeds}})["VGG-A"].tolist() == [
        "3 (1, 2, 6)",
        "300 (100, 200, 600)",
        "1 ± 0",
    ]
    seeds = [probed([0.0], [loss], [1.0], [1.0]) for loss in (2.9, 3.0, 3.1)]
    assert norm_tables.probes({"steps": {"vgg_a": seeds}})["VGG-A"][0] == "3 ± 0.25"


def test_a_caption_tells_what_the_lines_of_walks_are(make_run):
    runs = [make_run("vgg_a", seed=seed) for seed in (3, 3, 0)]
    assert norm_tables.beta_lines(runs[:2]) == "β of seed 3"
    assert norm_tables.beta_lines(runs).startswith("of β the thick line is the median over the 2 seeds")


@pytest.mark.usefixtures("one_walk_is_enough")
def test_walks_count_from_the_step_on_at_which_both_networks_learn():
    values = [[0.0] * 3, [1.0, 5, 7], [1.0] * 3, [9.0, 2, 4]]
    early, late, never = (probed(*values, learns_from=step) for step in (0, 5, None))
    assert walks.median_over_steps(late, "β", since=5) == 3  # of 2 and 4, at the steps 10 and 20

    def cells(plain, normed):
        table = norm_tables.probes({"steps": {"vgg_a": plain, "vgg_a_bn": normed}})
        return [*table.iloc[[0, 2]][["VGG-A", "VGG-A + BN"]].itertuples(index=False, name=None)]

    assert cells([late], [early]) == [("6", "6"), ("3", "3")]
    assert cells([never], [early]) == [(NOT_COMPARABLE, NOT_COMPARABLE)] * 2
    other = [probed(*values, seed=1, learns_from=step) for step in (0, None)]
    assert cells([early, other[1]], [late, other[0]]) == [("6", "6"), ("3", "3")]  # seed 1 is left out of both


@pytest.mark.parametrize(
    ("learns_from", "since"), [((12, 0), 12), ((0, 50), 50), ((0, 51), None), ((None, 0), None), ((0, 0), 0)]
)
def test_walks_are_compared_where_both_networks_learn_if_there_are_enough(learns_from, since):
    values = [[0.0] * 10, [1.0] * 10, [1.0] * 10, [float(step) for step in range(10)]]  # at the steps 0, 10, ... 90
    plain, normed = (probed(*values, learns_from=step) for step in learns_from)
    assert walks.compared_from([plain, normed]) == {0: since}
    expected = NOT_COMPARABLE if since is None else f"{(9 + math.ceil(since / 10)) / 2:g}"
    table = norm_tables.probes({"steps": {"vgg_a": [plain], "vgg_a_bn": [normed]}})
    assert table.iloc[2][["VGG-A", "VGG-A + BN"]].tolist() == [expected, expected]


def test_a_run_that_ended_early_has_fewer_walks_to_compare():
    plain, short = (probed(*[[0.0] * count] * 4) for count in (10, 4))
    assert walks.compared_from([plain, short]) == {0: None}


@pytest.mark.usefixtures("one_walk_is_enough")
def test_since_when_networks_learn_and_how_many_walks_are_compared():
    values = [[0.0] * 3] * 4
    plain = [probed(*values, learns_from=1_050), probed(*values, learns_from=None, seed=1)]
    normed = [probed(*values, learns_from=0), probed(*values, learns_from=7, seed=1)]
    table = norm_tables.learning(
        {"SGD": {"vgg_a": plain, "vgg_a_bn": normed}, "Adam": {"vgg_a": normed, "vgg_a_bn": normed}}
    )
    assert rows(table) == {
        "SGD": ("1050 (2.00), never (2.00)", "0 (2.00), 7 (2.00)", "0, 0 of 3"),
        "Adam": ("0 (2.00), 7 (2.00)", "0 (2.00), 7 (2.00)", "3, 2 of 3"),
    }
