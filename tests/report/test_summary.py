import math

import pytest

from cifarnb import data, experiment
from cifarnb.report import sections, summary
from cifarnb.report.claims import CONFIRMED, NOT_RUN, NOT_TESTED, TOO_SHORT
from cifarnb.report.summary import networks_to_look_at, summarize
from cifarnb.runs import NotRunError


@pytest.mark.parametrize(
    ("accuracies", "looked_at"),
    [
        ({"simple_cnn": 0.5, "resnet6": 0.7, "resnet9": 0.6, "vgg_a": 0.65}, ["simple_cnn", "resnet6", "resnet9"]),
        ({"simple_cnn": 0.5, "resnet9": 0.6, "vgg_a": 0.65, "vgg_a_bn": 0.8}, ["simple_cnn", "resnet9", "vgg_a_bn"]),
        ({"resnet6": 0.6, "vgg_a_bn": 0.8, "fast_cnn": 0.9}, ["resnet6", "fast_cnn"]),
    ],
)
def test_looked_at_are_the_write_ups_networks_and_the_best(accuracies, looked_at, make_run, tiny_dataset, monkeypatch):
    there = {name: make_run(name, accuracies=[value]) for name, value in accuracies.items()}
    monkeypatch.setattr(summary, "_find", lambda configs, *_: [there[c.model] for c in configs if c.model in there])
    assert [*networks_to_look_at("full", tiny_dataset)] == looked_at
    there["vgg_a_bn"] = make_run("vgg_a_bn", accuracies=[0.9], losses=[1.0, math.nan])
    assert "vgg_a_bn" not in networks_to_look_at("full", tiny_dataset)


def test_without_any_network_of_the_write_up_there_is_nothing_to_look_at(tiny_dataset, tmp_path):
    with pytest.raises(NotRunError, match=r"Simple CNN, 200 epochs.*; ResNet, 6 blocks.*; ResNet, 9 blocks"):
        networks_to_look_at("full", tiny_dataset, tmp_path)


@pytest.mark.parametrize(
    ("names", "holds"),
    [
        (
            ("simple_cnn", "resnet6"),
            {"Residual connections and batch norm do much better than the simple CNN."},
        ),
        (
            ("vgg_a", "vgg_a_bn"),
            {
                "With batch norm VGG-A tests better.",
                "With batch norm it converges to a lower loss.",
                "With batch norm it converges faster.",
            },
        ),
    ],
)
def test_quick_points_the_way_on_synthetic_images(names, holds, tmp_path):
    """In quick's few steps the networks go the way that the write-up says; what takes more steps is left open."""
    dataset = data.load("synthetic")
    for name in names:
        experiment.run_all(sections.configs(name, "quick"), dataset, tmp_path, jobs=1)
    judged = {c["claim"]: c["verdict"] for c in summarize("quick", dataset, tmp_path)["claims"]}
    decided = {claim for claim, verdict in judged.items() if verdict not in (NOT_RUN, NOT_TESTED, TOO_SHORT)}
    assert decided == holds
    assert all(judged[claim].startswith(f"{CONFIRMED} ") for claim in holds)
