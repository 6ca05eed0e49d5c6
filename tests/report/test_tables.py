import math
from typing import get_args

import numpy as np
import pytest

from cifarnb import experiment, insight
from cifarnb.config import Config
from cifarnb.models import LABELS, MODELS
from cifarnb.report import figures, tables
from cifarnb.report.describe import describe_network
from cifarnb.report.significance import mean_and_interval


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
            "best epoch": "50.00%",
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


def test_the_epoch_that_images_held_out_select_is_told(make_run):
    run = make_run(accuracies=[0.3, 0.5, 0.4], validation_size=10)
    run.history["validation_accuracy"] = [0.1, 0.2, 0.3]
    table = rows(tables.config_and_result([run]))
    assert table["test accuracy, best epoch on the images held out"] == ("not stated", "40.00% (epoch 3)")
    assert table["test accuracy, best epoch"][1] == "50.00% (epoch 2)"


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


def test_whatever_a_config_may_ask_for_has_a_name_and_a_colour():
    for names, field in ((tables.OPTIMIZERS, "optimizer"), (tables.SCHEDULES, "schedule")):
        assert {*names} == {*get_args(Config.__annotations__[field])}
    assert {*figures.COLORS} == {*MODELS}


def test_a_network_of_ones_own_has_a_table_of_results(make_run, monkeypatch):
    monkeypatch.setattr(tables, "REPORTED", {k: v for k, v in tables.REPORTED.items() if k != "resnet6"})
    table = tables.config_and_result([make_run("resnet6", optimizer="rmsprop")]).set_index("")
    assert (table.loc["optimizer", "here"], table.loc["optimizer", "reported"]) == ("RMSprop", "not stated")
