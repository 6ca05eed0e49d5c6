"""Section 1.4: which runs it asks for, what it makes of them, and what a reader sees."""

import dataclasses
import itertools
import json
import math

import pandas as pd
import pytest

from cifarnb import runs
from cifarnb.config import Config, ConfigError
from cifarnb.models import build_model, count_multiply_adds, count_parameters
from cifarnb.report import build, compare, figures, front, recipes, sections, tables
from cifarnb.report.claims import AIMS, CONFIRMED, ELSEWHERE, NOT_CONFIRMED, NOT_RUN, OWN_CLAIMS, TOO_SHORT, judge
from cifarnb.report.describe import describe_well, operations_of
from cifarnb.report.significance import mean_and_interval, sampling_difference


@pytest.fixture(scope="module")
def full():
    return sections.values(sections.WELL, "full")


def test_the_recipe_for_four_networks_is_one_but_for_what_each_needs(full):
    configs = recipes.network_configs(full)
    assert [*configs] == [*AIMS] == [*ELSEWHERE]
    own = {"model", "seed", "epochs", "lr"}
    shared = [{k: v for k, v in c.computed().items() if k not in own} for name in [*configs][:4] for c in configs[name]]
    assert all(fields == shared[0] for fields in shared)
    assert all(c.tta and c.average_decay and not c.decay_biases for name in [*configs][:4] for c in configs[name])
    assert [len(same) for same in configs.values()] == [3, 3, 3, 1, 3]
    assert [same[0].epochs <= most for same, most in zip(configs.values(), (200, 60, 60, 30, 10), strict=True)] == [
        True
    ] * 5
    assert {c.width for same in configs.values() for c in same} == {1.0}


def test_the_fast_network_has_the_published_recipe(full):
    first, *_ = recipes.network_configs(full)["fast_cnn"]
    published = Config(
        model="fast_cnn", epochs=10, batch_size=2000, optimizer="muon", lr=0.24, momentum=0.6, weight_decay=0.0024,
        schedule="linear", label_smoothing=0.2, augment=True, reflect_padding=2, alternate_flips=True, tta=True,
    )  # fmt: skip
    assert first.computed() == published.computed()
    (other,) = recipes.sgd_configs(full)
    differ = {k for k, v in first.computed().items() if other.computed()[k] != v}
    assert differ == {"optimizer", "lr", "momentum", "nesterov", "weight_decay", "schedule"}


def test_a_rung_has_one_ingredient_more_and_the_last_has_them_all(full):
    rungs = recipes.ladder_configs(full)
    assert [*rungs] == [recipes.WRITE_UP, *recipes.INGREDIENTS]
    write_up = sections.configs("resnet6", "full")[0]
    first, *_, last = [same[0] for same in rungs.values()]
    shared = {"epochs": full["tried_epochs"], "validation_size": 5000}
    assert first == write_up.replace(**shared)
    assert last == recipes.network_configs(full)["resnet6"][0].replace(**shared, tta=False)
    for (before, after), fields in zip(
        itertools.pairwise(same[0].computed() for same in rungs.values()), recipes.INGREDIENTS.values(), strict=True
    ):
        assert {k for k in before if before[k] != after[k]} == {*fields}


def test_an_ingredient_that_is_left_out_has_no_rung(full):
    rungs = recipes.ladder_configs(full | {"average_decay": 0.0})
    assert [*rungs] == [recipes.WRITE_UP, *recipes.INGREDIENTS][:-1]


def difference(config, other):
    return {k: v for k, v in config.computed().items() if v != other.computed()[k]}


def test_cutout_is_on_top_of_the_recipe_on_images_held_out_and_over_all_epochs(full):
    *_, (whole,) = recipes.ladder_configs(full).values()
    ((name, (left_out,)),) = recipes.left_out_configs(full).items()
    assert name == recipes.LEFT_OUT == "cutout"
    assert difference(left_out, whole) == {"cutout": 8}
    (long,) = recipes.long_configs(full)
    assert difference(long, recipes.network_configs(full)["resnet6"][0]) == {"cutout": 8}
    assert (long.epochs, long.validation_size, long.tta) == (60, 0, True)
    assert not any(config.cutout for same in recipes.network_configs(full).values() for config in same)
    with pytest.raises(ConfigError, match="tried_cutout: at least 1"):
        sections.check_values(full | {"tried_cutout": 0}, sections.WELL)


def test_another_value_differs_in_one_field_and_is_chosen_on_images_held_out(full):
    (with_cutout,) = recipes.left_out_configs(full)["cutout"]
    for name, (config,) in recipes.variant_configs(full).items():
        differ = [*difference(config, with_cutout)]
        assert differ == ["lr" if name.startswith("learning rate") else "weight_decay"]
        assert f"{config.computed()[differ[0]]:g}" in name
        assert config.validation_size == 5000


def operations(config):
    steps = config.epochs * math.ceil((50_000 - config.validation_size) / config.batch_size)
    return 6 * count_multiply_adds(build_model(config.model, width=config.width)) * config.batch_size * steps


def test_the_runs_of_full_take_less_than_seven_times_ten_to_the_fifteen_operations(full):
    wanted, (long,) = sections.all_configs(sections.WELL, "full"), recipes.long_configs(full)
    assert len(wanted) == len({*wanted}) == 3 * 4 + 1 + 1 + 6 + 1 + 4 + 1
    assert 6e15 < sum(operations(config) for config in wanted if config != long) < 7e15
    assert operations(long) < 0.5e15


def test_the_five_new_weights_take_less_than_60_megabytes():
    counts = {name: count_parameters(build_model(name)) for name in AIMS}
    assert sum(count * (2 if count > build.HALF_ABOVE else 4) for count in counts.values()) < 60e6


@pytest.fixture
def make_tried(make_run):
    """A function that makes a run with its last accuracies on the test images and on those held out."""

    def make(test, validation=0.5, *, model="resnet6", tta=None, **config):
        made = make_run(model, accuracies=(0.1, test), **config)
        history = made.history.assign(validation_accuracy=[0.1, validation])
        if tta is not None:
            history = history.assign(tta_accuracy=[float("nan"), tta])
        (made.path / "history.json").write_text(json.dumps(history.to_dict(orient="list")))
        return runs.load(made.path)

    return make


@pytest.fixture
def found(make_tried):
    """Section 1.4 with the six blocks and the fast network, some rungs, and two seeds."""
    tried = {"validation_size": 64}
    ladder = {
        recipes.WRITE_UP: [make_tried(0.5, 0.5, seed=s, **tried) for s in (0, 1)],
        "weight decay on weights": [make_tried(0.6 + s / 50, 0.4, seed=s, **tried) for s in (0, 1)],
        "label smoothing": [],
        "alternating flips": [make_tried(0.7, 0.7, seed=s, **tried) for s in (0, 1)],
    }
    return {
        "networks": {
            "simple_cnn": [],
            "resnet6": [make_tried(0.8, tta=0.85, seed=s) for s in (0, 1)],
            "resnet9": [],
            "vgg_a_bn": [],
            "fast_cnn": [make_tried(0.9 + s / 100, model="fast_cnn", tta=0.95, seed=s) for s in (0, 1, 2)],
        },
        "sgd": {"fast_cnn": [make_tried(0.85, model="fast_cnn", seed=0)]},
        "ladder": ladder,
        "left_out": {"cutout": [make_tried(0.6, 0.6, seed=1, **tried)]},
        "variants": {"learning rate 1": [make_tried(0.65, 0.8, seed=1, **tried)]},
        "long": {"resnet6": [make_tried(0.82, cutout=8, seed=s, augment=True) for s in (1, 2)]},
    }


@pytest.fixture
def well(found):
    return describe_well(found)


def test_networks_are_described_with_what_they_cost(well, found):
    six, fast = well[1], well[4]
    assert six["final_accuracy"] == mean_and_interval([0.8, 0.8])
    assert six["tta_accuracy"] == mean_and_interval([0.85, 0.85])
    assert six["operations"] == 6 * 25_609_472 * 256 * 2 == operations_of(found["networks"]["resnet6"][0])
    assert six["seconds"]["values"] == [6.0, 6.0]
    assert six["share_of_peak"] is None
    assert (fast["muon"]["seeds"], fast["sgd"]["seeds"]) == ([0], [0])  # those that both have
    assert fast["muon"]["final_accuracy"]["mean"] == 0.9
    assert well[0]["tta_accuracy"] is None
    assert json.loads(json.dumps(well)) == well


def test_the_share_of_a_known_peak(make_tried, found):
    run = make_tried(
        0.9, model="fast_cnn", provenance={"device_name": "NVIDIA A100-SXM4-80GB", "precision": "bfloat16"}
    )
    found["networks"]["fast_cnn"] = [run]
    share = 6 * 118_147_360 * 256 * 2 / 6.0 / 312e12
    assert describe_well(found)[4]["share_of_peak"] == pytest.approx(share)
    slower = run.history.assign(seconds=2 * run.history["seconds"])
    found["networks"]["fast_cnn"].append(dataclasses.replace(run, history=slower))
    assert describe_well(found)[4]["share_of_peak"] == pytest.approx(share * 6 / 9)  # of the mean of 6 s and 12 s


def test_rungs_gain_over_the_one_before_paired_by_seed(well):
    first, second, third = well[1]["ladder"]["rungs"]
    assert (first["gain"], first["held_out_gain"]) == (None, None)
    assert second["gain"] == pytest.approx(0.11)
    assert second["gain_ci95"] == pytest.approx(mean_and_interval([0.1, 0.12])["ci95"])
    assert second["held_out_gain"] == pytest.approx(-0.1)
    assert third["gain"] is None  # the rung before did not run
    (variant,) = well[1]["variants"]["rungs"]
    assert variant["held_out_gain"] == pytest.approx(0.2)
    assert variant["held_out_gain_ci95"] == pytest.approx(sampling_difference(0.8, 0.6, (64, 64)))
    (left_out,) = well[1]["left_out"]["rungs"]
    assert left_out["held_out_gain"] == pytest.approx(-0.1)
    assert left_out["held_out_gain_ci95"] == pytest.approx(sampling_difference(0.6, 0.7, (64, 64)))
    assert (well[1]["write_up"]["runs"], well[1]["recipe"]["runs"]) == (first["runs"], third["runs"])


def test_what_is_left_out_is_set_beside_the_result_with_the_seeds_that_both_have(well, found):
    long = well[1]["long"]
    assert (long["seeds"], long["without"]["seeds"]) == ([1], [1])
    assert (long["final_accuracy"]["mean"], long["without"]["final_accuracy"]["mean"]) == (0.82, 0.8)
    assert long["gain"] == pytest.approx(0.02)
    assert long["gain_ci95"] == pytest.approx(sampling_difference(0.82, 0.8, (64, 64)))
    assert describe_well(found | {"long": {"resnet6": []}})[1]["long"] is None


def test_the_tables_show_both_accuracies_and_what_was_tried(well):
    table = tables.well(well)
    assert [*table.columns[:2]] == ["network", "last epoch"]  # which a phone shows
    table = table.set_index("network")
    assert table.loc["Simple CNN", "last epoch"] == "not run"
    six = table.loc["ResNet, 6 blocks"]
    assert (six["last epoch"], six["augmented tests"]) == ("80.00 ± 0.00%", "85.00 ± 0.00%")
    published = table.loc["Fast CNN, published"]
    assert published[["augmented tests", "training, s", "of peak"]].tolist() == ["94.01%", "2.59", "36%"]
    rungs = well[1]["ladder"]["rungs"]
    assert tables.ladder(rungs)["gain, points"].tolist()[::2] == ["–", "–"]
    assert tables.ladder(rungs)["gain, points"][1].startswith("+11.00 (−1.71 to +23.71)")
    tried = tables.tried(well[1])
    shown = ["50.00 ± 0.00%", "40.00 ± 0.00%", "70.00 ± 0.00%", "60.00%", "80.00%"]
    assert tried["on images held out"].tolist() == shown
    assert tried["recipe"].tolist() == [
        recipes.WRITE_UP,
        "+ weight decay on weights",
        "+ alternating flips",
        "+ cutout, left out",
        "+ cutout, learning rate 1",
    ]
    assert tried["difference, points"][3].startswith("−10.00 (")
    assert tried["difference, points"][4].startswith("+20.00 (")


def test_the_figure_has_a_point_and_an_interval_a_rung(well):
    rungs = well[1]["ladder"]["rungs"]
    (ax,) = figures.gap(rungs, 0.9029).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        recipes.WRITE_UP, "+ weight decay on weights", "+ alternating flips"
    ]  # fmt: skip
    means = [line.get_xdata()[0] for line in ax.lines if line.get_markersize() == 8 and len(line.get_xdata()) == 1]
    assert means == pytest.approx([rung["final_accuracy"]["mean"] for rung in rungs])
    low, high = ax.lines[3].get_xdata()
    assert [low, high] == pytest.approx(rungs[1]["final_accuracy"]["ci95"])
    assert "+11.0" in [text.get_text() for text in ax.texts]


def test_the_headline_table_has_a_column_for_each_recipe(well, make_run, make_summary):
    summary = make_summary(simple_cnn=[make_run()], resnet6=[make_run("resnet6", accuracies=[0.6])])
    before = front.headline_table(summary)
    assert "trained well" not in before
    not_run = [network | {"final_accuracy": None} for network in well]
    assert front.headline_table(summary | {"well": not_run}) == before
    assert "Trained well" not in front.front_page(summary | {"well": not_run})
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in
            front.headline_table(summary | {"well": well}).splitlines()]  # fmt: skip
    assert rows[0] == [
        "network",
        "reported",
        "last epoch",
        "trained well",
        "augmented tests",
        "best epoch",
        "parameters",
    ]
    by_name = {row[0]: row[1:] for row in rows[2:]}
    assert by_name["ResNet, 6 blocks"][1:4] == ["60.00%", "80.00 ± 0.00%", "85.00 ± 0.00%"]
    assert by_name["Simple CNN"][2:4] == ["–", "–"]
    assert by_name["Fast CNN"][0:2] == ["–", "–"]
    assert by_name["Fast CNN"][3].startswith("95.00")
    page = front.front_page(summary | {"well": well})
    assert "**Best network:** Fast CNN, trained well with 1,971,352 parameters" in page
    quick = summary | {"well": well, "profile": "quick"}
    assert front.headline_table(quick) == before
    assert "**Best network:** ResNet, 6 blocks with" in front.front_page(quick)


def verdicts(well, profile="full"):
    return {claim["claim"]: claim["verdict"] for claim in judge(well, profile, OWN_CLAIMS)}


def test_claims_are_decided_by_their_intervals(well):
    found = verdicts(well)
    assert found["Trained well, six blocks reach 92 %."] == NOT_CONFIRMED
    assert found["Trained well, nine blocks reach 93 %."] == NOT_RUN
    assert found["The network made for speed reaches 94 % with test-time augmentation."] == CONFIRMED
    assert found["The whole recipe does better than the write-up's in as many epochs."] == CONFIRMED
    by_text = {claim["claim"]: claim for claim in judge(well, "full", OWN_CLAIMS)}
    muon = by_text["Muon does better than SGD in as many steps."]
    assert muon["here"] == "90.00% against 85.00%, +5.0 points"
    assert "Newcombe" in muon["test"]
    assert verdicts(well, "quick")["Muon does better than SGD in as many steps."] == TOO_SHORT  # after three steps
    well[4]["tta_accuracy"] = mean_and_interval([0.93, 0.931, 0.929])
    assert verdicts(well)["The network made for speed reaches 94 % with test-time augmentation."] == NOT_CONFIRMED


def test_reports_are_compared_in_these_networks_too(well, found, make_run, tmp_path, copy_records):
    for side in ("a", "b"):
        (tmp_path / side).mkdir()
        for run in found["networks"]["resnet6"]:
            copy_records(run, tmp_path / side / "runs")
        (tmp_path / side / "summary.json").write_text(json.dumps({"networks": [], "well": [well[1]]}))
    (pair,) = compare.compare(tmp_path / "a", tmp_path / "b").pairs
    assert pair.network == "ResNet, 6 blocks, trained well"
    assert len(pair.a) == 2


def test_weights_of_both_recipes_have_names_of_their_own(well, found, make_run):
    other, own = make_run("resnet6"), found["networks"]["resnet6"][0]
    summary = {"networks": [{"run": other.name, "parameters": 1}], "well": well}
    chosen = build.headline_runs([other, own, found["networks"]["resnet6"][1]], summary)
    assert [build.weights_name(run, summary) for run in chosen] == [
        "weights/resnet6.safetensors", "weights/resnet6-well.safetensors"
    ]  # fmt: skip


def test_how_each_network_is_trained_is_told(full):
    table = tables.recipes(recipes.network_configs(full)).set_index("")
    assert isinstance(table, pd.DataFrame)
    assert table.loc["optimizer"].tolist() == [*["SGD, Nesterov"] * 4, "Muon, Nesterov"]
    assert table.loc["seeds"].tolist() == ["0, 1, 2", "0, 1, 2", "0, 1, 2", "0", "0, 1, 2"]
    assert table.loc["crop", "Fast CNN"] == "2 px, mirrored"
    assert table.loc["average of the weights", "Fast CNN"] == "–"
