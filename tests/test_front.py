import re

import pytest

from cifarnb import front
from cifarnb.report import Section
from cifarnb.runs import describe_origin

SECTIONS = [Section(name, None, "ok") for name in ("00_data", "01_simple_cnn")]


def test_nothing_to_warn_of(make_run, make_summary):
    assert front.banner(make_summary(simple_cnn=[make_run()]), SECTIONS) == []


@pytest.mark.parametrize("profile", ["quick", "smoke"])
def test_a_shortened_schedule_is_named(profile, make_summary):
    (notice,) = front.banner(make_summary(profile, simple_cnn=[]), SECTIONS)
    assert notice.startswith(f"**Profile {profile}: the schedule is shortened.**")


def test_fewer_training_images_are_counted(make_run, make_summary):
    some, all_of_them = (
        make_run(provenance={"train_images": 2_000}),
        make_run("resnet6", provenance={"train_images": 50_000}),
    )
    summary = make_summary("quick", simple_cnn=[some], resnet6=[all_of_them], data={"train_images": 50_000})
    _, notice = front.banner(summary, SECTIONS)
    assert notice == "Trained on fewer than the 50,000 train images: Simple CNN 2,000."


def test_data_that_is_not_cifar10_is_named(make_summary):
    summary = make_summary(data={"cifar10": False, "source": "drawn shapes"})
    assert front.banner(summary, SECTIONS) == ["**The data is not known to be CIFAR-10:** drawn shapes."]


def test_a_network_that_diverged_is_named(make_run, make_summary):
    diverged = make_run("vgg_a", losses=[2.0, float("nan")])
    summary = make_summary(simple_cnn=[make_run()], vgg_a=[diverged])
    assert front.banner(summary, SECTIONS) == ["**Diverged:** VGG-A."]


def test_sections_that_are_not_well_are_named(make_summary):
    states = {"a": "ok", "b": "failed", "c": "timeout", "d": "not run", "e": "failed"}
    sections = [Section(name, None, status) for name, status in states.items()]
    assert front.banner(make_summary(), sections) == [
        "**Sections that failed:** b, e.",
        "**Sections that ran out of time:** c.",
        "**Sections that did not run:** d.",
    ]


def test_the_best_network_stands_at_the_front(make_run, make_summary):
    runs = {"simple_cnn": [make_run(accuracies=[0.9, 0.4])], "resnet6": [make_run("resnet6", accuracies=[0.1, 0.5])]}
    page = front.front_page(make_summary(**runs))
    assert "**Best network:** ResNet, 6 blocks with 692,122 parameters, **50.00%** test accuracy" in page
    assert "(test error 50.00%)" in page
    assert "| Simple CNN | 62,006 | 64.00% | 40.00% | 90.00% (1) |" in re.sub(" +", " ", page)


def test_the_verdict_turns_when_accuracies_are_swapped(make_run, make_summary):
    low, high = 0.4, 0.5

    def page(simple, residual):
        runs = {
            "simple_cnn": [make_run(accuracies=[simple] * 4)],
            "resnet6": [make_run("resnet6", accuracies=[residual] * 4)],
        }
        return front.front_page(make_summary(**runs))

    claim = "Residual connections and batch norm do much better than the simple CNN."
    assert "3 of the 3 that were measured come out the same here; 7 were not measured" in page(low, high)
    assert claim not in page(low, high)
    assert "2 of the 3 that were measured come out the same here; 7 were not measured" in page(high, low)
    assert f"    - Not so here: {claim} (40.00% against 50.00%, -10.0 points)" in page(high, low)


def test_a_front_page_without_any_run(make_summary):
    summary = make_summary(simple_cnn=[], data={"source": "drawn shapes"})
    page = front.front_page(summary)
    assert "Best network" not in page
    assert "0 of the 0 that were measured" in page
    assert f"{len(summary['claims'])} were not measured" in page
    assert "- **Data:** drawn shapes." in page
    assert "not run" in page


def test_the_provenance_names_data_software_and_every_run(make_run, make_summary):
    made = {"git_dirty": True, "wall_seconds": 3723.4, "precision": "bfloat16"}
    runs = [make_run(), make_run("resnet6", seed=7, lr=0.25, accuracies=[0.1] * 5, provenance=made)]
    text = front.provenance(make_summary("quick"), runs)
    assert "- Profile: `quick`" in text
    assert "noise; 256 train and 64 test images" in text
    assert f"`{'f' * 64}`" in text
    for name, version in describe_origin()["versions"].items():
        assert f"{name} {version}" in text
    first, second = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")
    )
    machine, when = "a small machine", "2026-01-02 03:04"
    assert first == [f"`{runs[0].name}`", "0", "0.001", "3", machine, "float32", "`0123456789`", when, "12 s"]
    commit = "`0123456789` with uncommitted changes"
    assert second == [f"`{runs[1].name}`", "7", "0.25", "5", machine, "bfloat16", commit, when, "3,723 s"]


def test_provenance_without_runs(make_summary):
    assert front.provenance(make_summary(), []).endswith("\n\nNo run is finished.")


def test_a_commit_in_short():
    assert front.commit({"git_commit": None, "git_dirty": None}) == "unknown"
    assert front.commit({"git_commit": "a" * 40, "git_dirty": False}) == "`aaaaaaaaaa`"
    assert front.commit({"git_commit": "a" * 40, "git_dirty": True}) == "`aaaaaaaaaa` with uncommitted changes"
