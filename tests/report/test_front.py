import re

import pytest

from cifarnb.provenance import describe_origin
from cifarnb.report import front
from cifarnb.report.claims import NOT_COMPARABLE


def test_nothing_to_warn_of(make_run, make_summary):
    assert front.banner(make_summary(simple_cnn=[make_run()])) == []


@pytest.mark.parametrize("profile", ["quick", "smoke"])
def test_a_shortened_schedule_is_named(profile, make_summary):
    (notice,) = front.banner(make_summary(profile, simple_cnn=[]))
    assert notice.startswith(f"**Profile {profile}: the schedule is shortened.**")


def test_fewer_training_images_are_counted(make_run, make_summary):
    some, all_of_them = (
        make_run(provenance={"train_images": 2_000}),
        make_run("resnet6", provenance={"train_images": 50_000}),
    )
    summary = make_summary("quick", simple_cnn=[some], resnet6=[all_of_them], data={"train_images": 50_000})
    _, notice = front.banner(summary)
    assert notice == "Trained on fewer than the 50,000 train images: Simple CNN 2,000."


def test_data_that_is_not_cifar10_is_named(make_summary):
    summary = make_summary(data={"cifar10": False, "source": "drawn shapes"})
    assert front.banner(summary) == ["**The data is not known to be CIFAR-10:** drawn shapes."]


def test_a_network_that_diverged_is_named(make_run, make_summary):
    diverged = make_run("vgg_a", losses=[2.0, float("nan")])
    summary = make_summary(simple_cnn=[make_run()], vgg_a=[diverged])
    assert front.banner(summary) == ["**Diverged:** VGG-A."]


def test_sections_that_are_not_well_are_named(make_summary):
    states = {"a": "ok", "b": "failed", "c": "timeout", "d": "not run", "e": "failed"}
    sections = [{"title": name, "status": status, "runs": 1, "runs_wanted": 1} for name, status in states.items()]
    assert front.banner(make_summary(sections=sections)) == [
        "**Sections that failed:** b; e.",
        "**Sections that ran out of time:** c.",
        "**Sections that did not run, or not to the end:** d.",
    ]


def test_runs_that_are_not_there_are_counted(make_summary):
    found = {"a": (3, 3), "b": (1, 3), "c": (0, 92)}
    sections = [{"title": name, "status": "ok", "runs": n, "runs_wanted": of} for name, (n, of) in found.items()]
    (notice,) = front.banner(make_summary(sections=sections))
    assert notice.endswith("b has 1 of 3; c has 0 of 92.")


def test_whose_report_it_is_and_where_its_code_is(make_summary):
    given = {"author": "A. *Star* <b>", "student_number": "1_2", "code_link": "https://example.org/a_b"}
    assert front.byline(make_summary() | {"hand_in": given}) == (
        r"**Author:** A. \*Star\* \<b\> · **Student number:** 1\_2 · **Code:** "
        r"[example.org/a\_b](<https://example.org/a_b>)"
    )
    assert front.byline(make_summary() | {"hand_in": {**dict.fromkeys(given, ""), "author": "A"}}) == "**Author:** A"
    assert front.byline(make_summary() | {"hand_in": dict.fromkeys(given, "")}) == ""
    assert front.byline(make_summary()) == ""


def test_the_best_network_stands_at_the_front(make_run, make_summary):
    runs = {"simple_cnn": [make_run(accuracies=[0.9, 0.4])], "resnet6": [make_run("resnet6", accuracies=[0.1, 0.5])]}
    page = front.front_page(make_summary(**runs))
    assert "**Best network:** ResNet, 6 blocks with 692,122 parameters, **50.00%** test accuracy" in page
    assert "(test error 50.00%)" in page
    assert "| Simple CNN | 64.00% | 40.00% | 90.00% | 62,006 |" in re.sub(" +", " ", page)


def test_the_claims_stand_at_the_front_with_their_verdicts(make_run, make_summary):
    low, high = [0.2] * 4, [0.9] * 4

    def page(simple, residual):
        elsewhere = {"device_name": "another machine"}
        deeper = make_run("resnet6", accuracies=residual, provenance=elsewhere)
        runs = {"simple_cnn": [make_run(accuracies=simple)], "resnet6": [deeper]}
        return re.sub(" +", " ", front.front_page(make_summary(**runs)))

    claim = "| Residual connections and batch norm do much better than the simple CNN. | 77.06% against 64% |"
    link = "[–](#table-networks) |"
    assert f"{claim} 90.00% against 20.00%, +70.0 points (learning rate 0.001) | **confirmed** | {link}" in page(
        low, high
    )
    assert f"{claim} 20.00% against 90.00%, −70.0 points (learning rate 0.001) | **not confirmed** | {link}" in page(
        high, low
    )
    counted = f"3 confirmed, 1 not confirmed, 1 {NOT_COMPARABLE}, 10 not run"
    assert f"- **The write-up's 15 claims:** {counted}" in page(low, high)
    counted = f"3 confirmed, 1 within noise, 1 {NOT_COMPARABLE}, 10 not run"
    assert f"- **The write-up's 15 claims:** {counted}" in page(high, high)


def test_a_front_page_without_any_run(make_summary):
    summary = make_summary(simple_cnn=[], data={"source": "drawn shapes"})
    page = front.front_page(summary)
    assert "Best network" not in page
    assert f"claims:** {len(summary['claims'])} not run" in page
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


def test_the_provenance_says_in_what_the_runs_differ(make_run, make_summary):
    copies = [
        {"data": {"fingerprint": "a" * 64}, "precision": "bfloat16"},
        {"data": {"fingerprint": "b" * 64}, "precision": "float32"},
        {"data": {"fingerprint": "a" * 64}, "precision": "bfloat16"},
    ]
    runs = [make_run(provenance=made) for made in copies]
    line = (
        "- The runs differ in precision (bfloat16: 2, float32: 1); the copy of the data "
        f"(`{'a' * 16}…`: 2, `{'b' * 16}…`: 1)"
    )
    assert line in front.provenance(make_summary(), runs).splitlines()
    assert "differ" not in front.provenance(make_summary(), runs[:1])


def test_provenance_without_runs(make_summary):
    assert front.provenance(make_summary(), []).endswith("\n\nNo run is finished.")


def test_a_commit_in_short():
    assert front.commit({"git_commit": None, "git_dirty": None}) == "unknown"
    assert front.commit({"git_commit": "a" * 40, "git_dirty": False}) == "`aaaaaaaaaa`"
    assert front.commit({"git_commit": "a" * 40, "git_dirty": True}) == "`aaaaaaaaaa` with uncommitted changes"
