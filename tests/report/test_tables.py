import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cifarnb import experiment, insight
from cifarnb.models import LABELS, MODELS
from cifarnb.report import tables, walks
from cifarnb.report.claims import NOT_COMPARABLE
from cifarnb.report.significance import mean_and_interval
from cifarnb.report.summary import describe_network


def rows(table):
    """First cell → the others."""
    return {cells[0]: tuple(cells[1:]) for cells in table.itertuples(index=False)}


def number(cell):
    return int(cell.strip("*").replace(",", ""))


@pytest.mark.parametrize("name", MODELS)
def test_the_layers_add_up_to_the_last_row(name):
    table = tables.layers(name)
    assert [*table] == ["layer", "output shape", "parameters"]
    *parts, whole = table["parameters"].map(number)
    assert sum(parts) == whole
    assert table["layer"].iloc[-1] == "**all**"
    assert table["output shape"].iloc[-2] == "(10,)"


def test_the_layers_of_the_simple_cnn_are_the_write_ups():
    shapes = ["(6, 28, 28)", "(6, 14, 14)", "(16, 10, 10)", "(16, 5, 5)", "(400,)", "(120,)", "(84,)", "(10,)", ""]
    assert tables.layers("simple_cnn")["output shape"].tolist() == shapes


def test_all_models_with_their_counts():
    table = rows(tables.models())
    assert [*table] == [*MODELS]
    assert table["simple_cnn"] == ("Simple CNN", "62,006", "651,720")
    assert table["vgg_a_bn"] == ("VGG-A + BN", "9,756,426", "153,293,824")


def test_what_is_our_own_beside_pytorchs(make_run, tiny_dataset):
    found = experiment.compare_with_torch(make_run(), tiny_dataset, steps=2)
    numbers = {
        "change": 0.0123,
        "gradient_difference": 0.0,
        "same_path": 5.96e-8,
        "own_path": 0.0352,
        "losses": [2.3, 2.25],
        "torch_losses": [2.3, 2.24996],
    }
    table = tables.against_torch(found | {"adam": found["adam"] | numbers})
    first, *columns = table
    assert first == "beside PyTorch's"
    assert [*columns[-2:]] == ["loss", "PyTorch's"]
    cells = rows(table)
    assert [*cells][1:3] == ["Adam", "network by hand, our SGD"]
    assert cells["Adam"] == ("0.012", "0", "6.0e-08", "3.5e-02", "2.2500", "2.2500")
    assert cells["SGD with momentum"][-1] == f"{found['sgd']['torch_losses'][-1]:.4f}"
    assert float(cells["network by hand, our SGD"][1]) == pytest.approx(
        found["network"]["gradient_difference"], rel=0.06
    )


def test_configuration_and_result_beside_the_write_up(make_run):
    config = {"optimizer": "adam", "lr": 1e-4, "schedule": "cosine", "batch_size": 32, "augment": True}
    runs = [
        make_run("resnet6", accuracies=[0.6, 0.5], **config),
        make_run("resnet6", accuracies=[0, 0.25], seed=3, provenance={"device_name": "another"}, **config),
    ]
    runs[1].history["seconds"] *= 3
    assert rows(tables.config_and_result(runs)) == {
        "optimizer": ("Adam", "Adam"),
        "learning rate": ("0.0001", "0.0001"),
        "schedule": ("CosineAnnealingLR", "CosineAnnealingLR"),
        "epochs": ("100", "2"),
        "batch size": ("not stated", "32"),
        "augmentation": ("not stated", "random crop, flip"),
        "weight decay, label smoothing": ("not stated", "0, 0"),
        "training images": ("not stated", "256"),
        "test images": ("not stated", "64"),
        "seeds": ("not stated", "0, 3"),
        "device": ("not stated", "a small machine and another, float32"),
        "seconds per epoch": ("not stated", "6"),  # of 3 and 9
        "**test accuracy, last epoch**": ("77.06%", "**37.50 ± 158.83%**"),  # t(0.975, 1) = 12.706, times 12.5
        "test accuracy, best epoch": ("at epoch 58", "42.50 ± 222.36% (epoch 1, 2)"),
    }


@pytest.mark.parametrize(
    "name",
    ["simple_cnn", "resnet6", "resnet9", "vgg_a", "vgg_a_bn"],
)
def test_every_network_has_its_table_of_text(name, make_run):
    table = tables.config_and_result([make_run(name)])
    assert [*table] == ["", "reported", "here"]
    assert table.map(lambda cell: isinstance(cell, str)).all(axis=None)
    reported = {"simple_cnn": "64.00%", "resnet6": "77.06%", "resnet9": "90.29%"}.get(name, "not stated")
    assert rows(table)["**test accuracy, last epoch**"] == (reported, "**40.00%**")


def test_what_the_write_up_says_of_the_simple_cnn(make_run):
    table = rows(tables.config_and_result([make_run("simple_cnn")]))
    assert table["epochs"] == ("200", "3")
    assert table["seconds per epoch"] == ("about 4.89", "4")
    assert table["optimizer"] == ("SGD", "SGD, momentum 0.9")


@pytest.mark.parametrize(
    ("config", "optimizer", "schedule"),
    [
        ({"momentum": 0}, "SGD", "none"),
        ({"nesterov": True, "schedule": "one_cycle"}, "SGD, Nesterov momentum 0.9", "OneCycleLR"),
        ({"optimizer": "adamw", "schedule": "cosine"}, "AdamW", "CosineAnnealingLR"),
    ],
)
def test_optimizer_and_schedule_in_words(config, optimizer, schedule, make_run):
    table = rows(tables.config_and_result([make_run(**config)]))
    assert (table["optimizer"][1], table["schedule"][1]) == (optimizer, schedule)


def test_networks_beside_the_write_up(make_run, make_summary):
    ran = [make_run(accuracies=[0.5, 0.45, 0.4])]
    table = tables.networks(make_summary(simple_cnn=ran, resnet6=[]))
    assert table.to_dict("records") == [
        {
            "network": "Simple CNN",
            "parameters": "62,006",
            "multiply-adds": "0.65 M",
            "epochs": "3",
            "s / epoch": "4",
            "reported": "64.00%",
            "last epoch": "40.00%",
            "best epoch": "50.00% (1)",
        },
        {
            "network": "ResNet, 6 blocks",
            "parameters": "692,122",
            "multiply-adds": "25.61 M",
            "epochs": "–",
            "s / epoch": "–",
            "reported": "77.06%",
            "last epoch": "not run",
            "best epoch": "–",
        },
    ]


def test_beside_the_networks_stands_what_they_reach_trained_well(make_run, make_summary):
    table = tables.networks(make_summary(simple_cnn=[make_run(accuracies=[0.4])], resnet6=[]))
    well = [describe_network(name, [make_run(name, accuracies=[0.9])]) for name in ("resnet6", "fast_cnn")]
    well[0]["tta_accuracy"], well[1]["tta_accuracy"] = None, mean_and_interval([0.95])
    beside = rows(tables.beside_well(table, well))
    assert {name: cells[-2:] for name, cells in beside.items()} == {
        "Simple CNN": ("–", "–"),
        "ResNet, 6 blocks": ("90.00%", "–"),
        "Fast CNN": ("90.00%", "95.00%"),
    }
    assert beside["Fast CNN"][:2] == (f"{well[1]['parameters']:,}", f"{well[1]['multiply_adds'] / 1e6:.2f} M")
    assert set(beside["Fast CNN"][2:-2]) == {"–"}
    assert tables.beside_well(table, []) is table


def test_a_caption_tells_where_seconds_are_from(make_run):
    runs = {name: make_run(model, provenance={"device_name": name}) for name, model in (("A", "vgg_a"), ("B", "vgg_a"))}
    first, both = describe_network("vgg_a", [runs["A"]]), describe_network("vgg_a", [runs["B"], runs["A"]])
    assert tables.timed([first]) == " Seconds are those of A, and longer where other runs went on beside."
    assert tables.timed([both, first]).startswith(" Seconds are those of A and B, ")
    assert tables.timed([describe_network("vgg_a", [])]) == ""


def test_a_network_the_write_up_has_no_number_of(make_run, make_summary):
    table = tables.networks(make_summary(vgg_a=[make_run("vgg_a")]))
    assert table["reported"].tolist() == ["–"]


def test_claims_with_their_verdicts(make_run, make_summary):
    worse, better = [make_run(accuracies=[0.4])], [make_run("resnet6", accuracies=[0.5])]
    deeper = [make_run("resnet9", accuracies=[0.45])]
    summary = make_summary(simple_cnn=worse, resnet6=better, resnet9=deeper)
    table = rows(tables.claims(summary))
    assert len(table) == len(summary["claims"])
    here = "50.00% against 40.00%, +10.0 points (learning rate 0.001)"
    link = "[–](#table-networks)"
    residual = table["Residual connections and batch norm do much better than the simple CNN."]
    assert residual == ("77.06% against 64%", here, "**within noise**", link)  # on 64 test images
    assert table["With batch norm VGG-A tests better."] == ("–", "–", "**not run**", "–")
    tested = rows(tables.claim_tests(summary))
    assert "With batch norm VGG-A tests better." not in tested
    assert "Newcombe" in tested["Residual connections and batch norm do much better than the simple CNN."][0]


def test_the_width_of_the_bands():
    described = {
        "vgg_a": {
            "median_band_width": {"mean": 0.5, "ci95": [0.4, 0.6]},
            "late_band_width": {"mean": 0.25, "ci95": None},
            "maximum_band_width": {"mean": math.inf, "ci95": [math.nan, math.nan]},
        }
    }
    widths = {
        "width of the band, median over the steps": ("0.5 ± 0.1",),
        "width of the band, median over the second half": ("0.25",),
        "width of the band, maximum": ("inf",),
    }
    assert rows(tables.landscape(described)) == widths
    unsteady = {"loss_fluctuation": mean_and_interval([0.0474, 0.0476]), "lr": 5e-4}
    assert rows(tables.landscape(described, {"vgg_a": unsteady})) == widths | {
        "deviation of the loss within 50 steps of a run (learning rate 0.0005, 2 seeds)": ("0.0475 ± 0.0013",)
    }


def test_rates_at_which_the_network_with_batch_norm_is_not_ahead_are_listed():
    normed = {"0.001": [0.8], "0.0001": [0.74, 0.75], "0.01": [0.5], "1e-05": [0.3]}
    plain = {"0.001": [0.7], "0.0001": [0.8], "0.01": [0.5], "0.1": [0.9]}
    described = {"vgg_a_bn": {"final_accuracy": normed}, "vgg_a": {"final_accuracy": plain}}
    assert tables.not_ahead(described) == ["0.0001 (74.50 ± 6.35% against 80.00%)", "0.01 (50.00% against 50.00%)"]
    assert (
        tables.not_ahead({"vgg_a_bn": {"final_accuracy": {"1": [0.5]}}, "vgg_a": {"final_accuracy": {"1": [0.4]}}})
        == []
    )


def test_the_epoch_that_images_held_out_select_is_told(make_run):
    run = make_run(accuracies=[0.3, 0.5, 0.4], validation_size=10)
    run.history["validation_accuracy"] = [0.1, 0.2, 0.3]
    table = rows(tables.config_and_result([run]))
    assert table["test accuracy, best epoch on the images held out"] == ("not stated", "40.00% (epoch 3)")
    assert table["test accuracy, best epoch"][1] == "50.00% (epoch 2)"


def test_accuracies_over_many_rates_and_seeds():
    def run(lr, accuracy, diverged=False):
        return SimpleNamespace(config=SimpleNamespace(lr=lr), final_accuracy=accuracy, diverged=diverged)

    runs = {
        "vgg_a": [run(0.1, 0.1, True), run(1e-3, 0.5), run(1e-3, 0.53), run(1e-3, 0.59), run(0.01, 0.625)],
        "vgg_a_bn": [run(1.0, 0.1, True), run(1.0, 0.1, True), run(0.1, 0.75), run(0.1, 0.1, True), run(0.01, 0.7)],
    }
    table = tables.rates(runs)
    assert [*table] == ["learning rate", LABELS["vgg_a"], LABELS["vgg_a_bn"]]
    assert [*map(tuple, table.itertuples(index=False))] == [
        ("0.001", "54.00 ± 11.38%", "not run"),  # a deviation of √0.0021, times 4.3027 / √3
        ("0.01", "62.50%", "70.00%"),
        ("0.1", "diverged", "75.00% (1 diverged)"),
        ("1", "not run", "diverged"),
    ]
    apart = tables.rates({"vgg_a": [run(0.1, 0.1), run(0.1, 0.5), run(0.1, 0.6)]})
    assert apart[LABELS["vgg_a"]].tolist() == ["40.00% (10.00%, 50.00%, 60.00%)"]  # ± 65.72


NAN, INF = math.nan, math.inf


def probed(loss_min, loss_max, change_max, beta, learns_from=0, seed=0):
    columns = {"loss_min": loss_min, "loss_max": loss_max, "change_max": change_max, "beta": beta}
    probes = pd.DataFrame(columns | {"step": range(0, 10 * len(beta), 10)})
    losses = np.full(30, 2.0)
    return SimpleNamespace(probes=probes, learns_from=learns_from, losses=losses, config=SimpleNamespace(seed=seed))


def test_medians_over_the_steps_that_are_finite():
    run = probed([1.0, 1, 1, INF], [2.0, 4, INF, INF], [NAN, 3.0, 7, 8], [NAN, INF, NAN, INF])
    assert walks.median_over_steps(run, "range of the loss") == 2  # of 1 and 3
    assert walks.median_over_steps(run, "change of the gradient") == 7
    assert math.isnan(walks.median_over_steps(run, "β"))


def test_walks_by_kind_measure_and_network():
    plain = probed([1.0, 1, 1], [2.0, 3, 9], [1234.5, 1, 5000], [0.012345] * 3)
    nothing = probed(*[[INF, NAN, NAN]] * 4)
    table = tables.probes(
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


def test_walks_over_several_seeds_have_their_interval():
    seeds = [probed([0.0], [loss], [100 * loss], [1.0]) for loss in (1.0, 2.0, 6.0)]
    # mean 3, deviation √7, t(0.975, 2) = 4.3027: 4.3027 · √7 / √3 = 6.5725, more than the mean
    assert tables.probes({"steps": {"vgg_a": seeds}})["VGG-A"].tolist() == [
        "3 (1, 2, 6)",
        "300 (100, 200, 600)",
        "1 ± 0",
    ]
    seeds = [probed([0.0], [loss], [1.0], [1.0]) for loss in (2.9, 3.0, 3.1)]
    assert tables.probes({"steps": {"vgg_a": seeds}})["VGG-A"][0] == "3 ± 0.25"


def test_an_accuracy_over_several_seeds_has_its_interval():
    assert tables.accuracy({"mean": 0.5, "ci95": [0.475, 0.525], "values": [0.49, 0.51]}) == "50.00 ± 2.50%"
    assert tables.accuracy({"mean": 0.5, "ci95": None, "values": [0.5]}) == "50.00%"


def test_percent():
    assert tables.percent(0.77064) == "77.06%"
    assert tables.percent(0.0) == "0.00%"
    assert tables.percent(None) is None


def test_a_caption_tells_the_seeds_and_how_several_are_drawn(make_run):
    runs = [make_run("vgg_a", seed=seed) for seed in (3, 0)]
    assert tables.seeds(runs[:1]) == "seed 3"
    assert tables.seeds(runs) == "seeds 3, 0: their mean, their range, and each of them faintly"


def test_the_first_seed_is_told_beside_others_only(make_run):
    runs = [make_run("vgg_a", seed=seed) for seed in (3, 3, 0)]
    assert tables.first_seed(runs[:2]) == "seed 3"
    assert tables.first_seed(runs) == "seed 3, the first of 2"


def test_a_caption_tells_what_the_lines_of_walks_are(make_run):
    runs = [make_run("vgg_a", seed=seed) for seed in (3, 3, 0)]
    assert tables.beta_lines(runs[:2]) == "β of seed 3"
    assert tables.beta_lines(runs).startswith("of β the thick line is the median over the 2 seeds")


def test_seeds_are_counted_once(make_run):
    runs = [make_run("vgg_a", seed=seed) for seed in (0, 0, 2)]
    assert tables.count_seeds(runs[:2]) == "1 seed"
    assert tables.count_seeds(runs) == "2 seeds"


def test_a_caption_tells_what_plus_minus_is_where_there_are_several_seeds(make_run):
    runs = [make_run("vgg_a", seed=seed) for seed in (0, 0, 2)]
    assert tables.plus_minus(runs[:2]) == ""
    assert tables.plus_minus(runs) == f"; {tables.PLUS_MINUS}"


def test_values_of_several_seeds_have_their_interval():
    assert tables.spread_of([0.25]) == "0.25"
    assert tables.spread_of(value for value in (1.0, 2.0, 6.0)) == "3 ± 6.6"


def test_walks_count_from_the_step_on_at_which_both_networks_learn():
    values = [[0.0] * 3, [1.0, 5, 7], [1.0] * 3, [9.0, 2, 4]]
    early, late, never = (probed(*values, learns_from=step) for step in (0, 5, None))
    assert walks.median_over_steps(late, "β", since=5) == 3  # of 2 and 4, at the steps 10 and 20

    def cells(plain, normed):
        table = tables.probes({"steps": {"vgg_a": plain, "vgg_a_bn": normed}})
        return [*table.iloc[[0, 2]][["VGG-A", "VGG-A + BN"]].itertuples(index=False, name=None)]

    assert cells([late], [early]) == [("6", "6"), ("3", "3")]
    assert cells([never], [early]) == [(NOT_COMPARABLE, NOT_COMPARABLE)] * 2
    other = [probed(*values, seed=1, learns_from=step) for step in (0, None)]
    assert cells([early, other[1]], [late, other[0]]) == [("6", "6"), ("3", "3")]  # seed 1 is left out of both


def test_since_when_networks_learn_and_how_many_walks_are_compared():
    values = [[0.0] * 3] * 4
    plain = [probed(*values, learns_from=1_050), probed(*values, learns_from=None, seed=1)]
    normed = [probed(*values, learns_from=0), probed(*values, learns_from=7, seed=1)]
    table = tables.learning(
        {"SGD": {"vgg_a": plain, "vgg_a_bn": normed}, "Adam": {"vgg_a": normed, "vgg_a_bn": normed}}
    )
    assert rows(table) == {
        "SGD": ("1050 (2.00), never (2.00)", "0 (2.00), 7 (2.00)", "0, 0 of 3"),
        "Adam": ("0 (2.00), 7 (2.00)", "0 (2.00), 7 (2.00)", "3, 2 of 3"),
    }


def test_the_layers_of_a_narrow_network_are_its_own():
    assert tables.layers("vgg_a", 0.25)["layer"][0].startswith("Conv2d(3→16,")
    assert number(tables.layers("vgg_a", 0.25)["parameters"].iloc[-1]) < 9_750_922 / 15


def test_the_pairs_that_each_network_confuses_most():
    simple, deeper = np.zeros((10, 10), int), np.zeros((10, 10), int)
    simple[3, 5], simple[5, 3], simple[0, 8], deeper[1, 9] = 1000, 234, 7, 5
    table = tables.confused_pairs({"simple_cnn": simple, "resnet6": deeper}, [f"c{i}" for i in range(10)], most=2)
    assert [*table] == ["network", "1.", "2."]
    assert rows(table) == {
        LABELS["simple_cnn"]: ("c3 and c5: 1,234", "c0 and c8: 7"),
        LABELS["resnet6"]: ("c1 and c9: 5", "c0 and c1: 0"),
    }


def test_calibration_is_how_sure_and_how_right():
    logits = np.zeros((8, 10), np.float16)
    logits[:, 0] = 20
    nothing = np.zeros(0)
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    seen = insight.Seen(labels, nothing, logits, *[nothing] * 7)
    (row,) = rows(tables.calibration({"resnet6": seen})).values()
    # Best is a probability of 3/4 beside nine classes that share the rest: a gap of ln 27 between the logits.
    temperature = f"{20 / math.log(27):.2f}"
    assert row == ("75.0%", "100.0%", f"{temperature}, {temperature}", "25.0%", "0.0%")
