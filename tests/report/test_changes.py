"""Section 1.5: which runs it asks for, how they are compared, and what a reader is told."""

import json
import math

import pytest
from scipy import stats

from cifarnb import runs
from cifarnb.models import build_model, count_multiply_adds, count_parameters
from cifarnb.report import build, changes, compare, sections, tables
from cifarnb.report.changes import BASE, CHANGES, OPTIMIZERS
from cifarnb.report.claims import CONFIRMED, NOISE, NOT_COMPARABLE, NOT_CONFIRMED, NOT_RUN, OWN_CLAIMS, TOO_SHORT, judge
from cifarnb.report.plan import Task
from cifarnb.report.significance import sampling_difference
from cifarnb.report.summary import find_changes
from cifarnb.runs import NotRunError

GROUPS = [*CHANGES, "optimizer"]


@pytest.fixture(scope="module", params=sections.PROFILES)
def given(request):
    return sections.values(sections.ONE_CHANGE, request.param)


def test_every_change_differs_from_the_base_in_one_thing(given):
    groups = changes.entry_configs(given)
    assert [*groups] == [BASE, *GROUPS]
    base = groups[BASE][BASE][0].computed()
    assert (base["model"], base["optimizer"], base["momentum"], base["loss"]) == (
        "simple_cnn",
        "sgd",
        0.9,
        "cross_entropy",
    )
    assert not any(base[off] for off in ("augment", "weight_decay", "l1", "label_smoothing", "dropout", "nesterov"))
    seen = []
    for group, of in groups.items():
        for same in of.values():
            assert [config.seed for config in same] == given["seeds"]
            fields = same[0].computed()
            differ = {name for name in base if fields[name] != base[name]}
            if group == "optimizer":
                assert differ - {"lr"} in ({"momentum"}, {"nesterov"}, {"optimizer"}, {"optimizer", "weight_decay"})
            else:
                assert len(differ) == (group != BASE)
            seen.append(fields)
    assert len({json.dumps(fields) for fields in seen}) == len(seen) == 28


def test_of_the_rates_the_first_is_used_and_all_are_tried_on_images_held_out(given):
    used = changes.entry_configs(given)["optimizer"] | {changes.MOMENTUM: changes.entry_configs(given)[BASE][BASE]}
    tried = changes.tried_configs(given)
    assert {*used} == {*tried} == {*OPTIMIZERS}
    for name, by_rate in tried.items():
        assert [same[0].lr for same in by_rate.values()] == given[OPTIMIZERS[name][0]]
        (first, *_), *_ = by_rate.values()
        assert first == used[name][0].replace(validation_size=given["held_out"])
        assert all(config.validation_size for same in by_rate.values() for config in same)


def test_full_is_on_all_images_with_three_seeds_and_takes_few_operations():
    given = sections.values(sections.ONE_CHANGE, "full")
    wanted = sections.all_configs(sections.ONE_CHANGE, "full")
    assert wanted == changes.all_configs(given)
    assert len(wanted) == 28 * 3 + sum(len(given[rates]) for rates, _ in OPTIMIZERS.values())
    assert {(config.train_size, config.test_size, config.epochs) for config in wanted} == {(0, 0, 12)}
    operations = [6 * count_multiply_adds(build_model(**c.network())) * 50_000 * c.epochs for c in wanted]
    assert sum(operations) < 5e14  # a few per cent of section 1.4's


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"muon_lrs": []}, "muon_lrs: at least 1"), ({"adam_lrs": [0.0]}, "adam_lrs: .*greater than 0")],
)
def test_rates_are_checked(changed, words):
    with pytest.raises(sections.ConfigError, match=words):
        sections.check_values(sections.values(sections.ONE_CHANGE, "quick") | changed, sections.ONE_CHANGE)


def test_steps_that_cost_nearly_the_same_are_timed_once():
    groups = changes.entry_configs(sections.values(sections.ONE_CHANGE, "full"))
    kinds = {name: Task("", same[0], 1.0, 0).kind for of in groups.values() for name, same in of.items()}
    alike = ["tanh", "squared error", "L1 penalty", "dropout", "residual connection", "label smoothing", "Adam", "Muon"]
    assert {kinds[name] for name in alike} == {kinds[BASE]}
    apart = ["2 × filters", "2 × neurons", "batch norm", "stride for pooling"]
    assert len({kinds[name] for name in [BASE, *apart]}) == 5


# --------------------------------------------------------------------------- comparing


@pytest.fixture
def described(make_run):
    """A function that describes made-up runs: change → its accuracies, a seed each (None: not there), also of the base.

    ``tried`` has optimizer → learning rate → accuracy on images held out.  What is not named did not run.
    """

    def make(seed, accuracy, **config):
        made = make_run(accuracies=(0.1, accuracy), seed=seed, provenance={"test_images": 10_000}, **config)
        history = made.history.assign(validation_accuracy=[0.1, accuracy])
        (made.path / "history.json").write_text(json.dumps(history.to_dict(orient="list")))
        return runs.load(made.path)

    def describe(accuracies=(), base=(), tried=()):
        given = {**dict(accuracies), BASE: base}
        optimizers = {name: {} for name in OPTIMIZERS if name != changes.MOMENTUM}
        groups = {BASE: {BASE: {}}, **CHANGES, "optimizer": optimizers}
        entries = {
            group: {
                name: [make(seed, a, **fields) for seed, a in enumerate(given.get(name, [])) if a is not None]
                for name, fields in of.items()
            }
            for group, of in groups.items()
        }
        rates = {name: dict(tried).get(name, {"1": None}) for name in OPTIMIZERS}
        return changes.describe(
            entries,
            {name: {lr: [make(0, a)] if a else [] for lr, a in by_rate.items()} for name, by_rate in rates.items()},
        )

    return describe


def entry(found, name):
    return next(entry for entry in found["entries"] if entry["name"] == name)


def slow_interval(base, others, name):
    """By plain loops: pooled variance of the rest in a randomised block design, Student's t, Holm's levels."""
    rows = [base, *others.values()]
    seeds, n = len(base), len(rows)
    grand = sum(sum(row) for row in rows) / n / seeds
    rest = 0.0
    for row in rows:
        for seed in range(seeds):
            rest += (row[seed] - sum(row) / seeds - sum(r[seed] for r in rows) / n + grand) ** 2
    freedom = (n - 1) * (seeds - 1)
    error = math.sqrt(2 * rest / freedom / seeds)
    differences = {k: sum(row) / seeds - sum(base) / seeds for k, row in others.items()}
    p = {k: 2 * (1 - stats.t.cdf(abs(d) / error, freedom)) for k, d in differences.items()}
    level = None
    for rank, k in enumerate(sorted(p, key=p.get)):
        level = 0.05 / (len(p) - rank)
        if k == name or p[k] > level:
            break
    low, high = stats.t.interval(1 - level, freedom, differences[name], error)
    return [low, high], p[name] < level


def test_changes_are_compared_by_seed_with_a_pooled_spread_and_holms_levels(described):
    base = [0.60, 0.62, 0.61]
    others = {"4 × filters": [0.68, 0.71, 0.69], "tanh": [0.59, 0.60, 0.61], "GELU": [0.605, 0.625, 0.611]}
    others |= {"batch norm": [0.64, 0.63, 0.65], "Adam": [0.61, 0.60, 0.615]}
    found = described(others, base=base)
    assert (found["compared"], found["pooled"], found["freedom"], found["seeds"]) == (5, 6, 10, [0, 1, 2])
    excluded = 0
    for name in others:
        expected, rejected = slow_interval(base, others, name)
        assert entry(found, name)["ci95"] == pytest.approx(expected, abs=1e-9)
        assert (expected[0] > 0 or expected[1] < 0) == rejected
        excluded += rejected
    assert 0 < excluded < 5
    assert entry(found, "tanh")["difference"] == pytest.approx(-0.01)
    assert json.loads(json.dumps(found)) == found


def test_single_runs_are_compared_by_newcombes_interval_at_holms_levels(described):
    found = described({"4 × filters": [0.68], "tanh": [0.59], "GELU": [0.612]}, base=[0.6])
    images = (10_000, 10_000)
    # The clearest at 5 % / 3; the next is not told from the base at 5 % / 2, and its level is that of the last.
    for name, level, accuracy in (("4 × filters", 3, 0.68), ("GELU", 2, 0.612), ("tanh", 2, 0.59)):
        expected = sampling_difference(accuracy, 0.6, images, 1 - 0.05 / level)
        assert entry(found, name)["ci95"] == pytest.approx(expected)
    assert (found["compared"], found["error"]) == (3, None)


def test_what_does_not_learn_is_compared_and_spoils_no_spread(described):
    others = {"4 × filters": [0.68, 0.71, 0.69], "GELU": [0.605, 0.625, 0.611]}
    stuck = {"sigmoid": [0.1, 0.1, 0.1]}
    base = [0.60, 0.62, 0.61]
    found, without = (described(given, base=base) for given in (others | stuck, others))
    assert (found["error"], found["freedom"]) == (without["error"], without["freedom"])
    assert entry(found, "sigmoid")["ci95"][1] < -0.4
    assert (found["compared"], without["compared"]) == (3, 2)
    assert "sigmoid (does not learn) −51.00" in changes.group_words(found, "activation")


@pytest.mark.parametrize(("accuracy", "loss", "learns"), [(0.5, 1.0, True), (0.1, 1.0, False), (0.5, math.nan, False)])
def test_a_run_has_learnt_above_guessing_and_with_a_finite_loss(make_run, accuracy, loss, learns):
    run = make_run(accuracies=(accuracy,), losses=(2.0, loss, 1.0), provenance={"test_images": 10_000})
    found = changes.describe({BASE: {BASE: [run]}}, {})
    assert found["entries"][0]["learns"] == [learns]
    assert (" says little" in changes.overview(found)) != learns


def test_a_change_that_learns_with_some_seeds_only_or_lacks_some_is_not_compared(described):
    others = {"4 × filters": [0.68, 0.71, 0.69], "sigmoid": [0.5, 0.1, 0.5], "tanh": [0.6, None, 0.6]}
    found = described(others, base=[0.60, 0.62, 0.61])
    assert (found["compared"], found["pooled"]) == (1, 2)
    assert (entry(found, "sigmoid")["ci95"], entry(found, "tanh")["ci95"]) == (None, None)
    assert entry(found, "tanh")["difference"] == pytest.approx(-0.005)  # over the seeds that both have
    words = changes.group_words(found, "activation")
    assert words == ("Learning with some seeds only: sigmoid; not compared: tanh; not run: LeakyReLU, GELU, SiLU.")


@pytest.mark.parametrize(
    "base", [[], [0.6, 0.1, 0.6], [0.1, 0.1, 0.1]], ids=["not run", "learns with some seeds", "does not learn"]
)
def test_without_a_base_or_a_spread_nothing_is_compared(described, base):
    found = described({"tanh": [0.6, 0.62, 0.6]}, base=base)
    assert (found["compared"], found["error"], entry(found, "tanh")["ci95"]) == (0, None, None)
    assert changes.method(found) == "Nothing is compared."
    assert changes.group_words(found, "activation").startswith("Not compared: tanh; not run: LeakyReLU")


def test_equal_runs_have_intervals_without_width(described):
    found = described({"tanh": [0.6, 0.62], "GELU": [0.7, 0.72]}, base=[0.6, 0.62])
    assert found["error"] == pytest.approx(0, abs=1e-12)
    assert entry(found, "GELU")["ci95"] == pytest.approx([0.1, 0.1])


# --------------------------------------------------------------------------- telling


def test_a_group_is_told_in_one_sentence_from_the_best_to_the_worst(described):
    found = described(
        {"tanh": [0.5, 0.51], "GELU": [0.602, 0.612], "SiLU": [0.66, 0.67], "LeakyReLU": [0.599, 0.611], "sigmoid": []},
        base=[0.6, 0.61],
    )
    words = changes.group_words(found, "activation")
    better, worse, chance, missing = words.removesuffix(".").split("; ")
    assert better.startswith("In points from the base, better: SiLU +6.00 (+5.")
    assert worse.startswith("worse: tanh −10.00 (−10.")
    assert chance.startswith("no more than chance: GELU +0.20 (−")
    assert chance.index("GELU") < chance.index("LeakyReLU +0.00 (")
    assert missing == "not run: sigmoid"
    assert changes.group_words(found, "neurons") == "Not run: ½ × neurons, 2 × neurons, 4 × neurons."
    assert changes.overview(found) == (
        "The base reaches **60.50 ± 6.35%** after 3 steps. Of 27 changes: 1 better, 1 worse, 2 no more than "
        "chance, 23 not run."
    )


def test_the_overview_says_what_is_wrong_with_the_base(described):
    assert changes.overview(described({"tanh": [0.6]})) == "Not run: the base, so nothing can be compared with it."
    assert changes.overview(described({"tanh": [0.6]}, base=[0.1])).endswith(
        "no better than guessing, so this says little."
    )
    assert "guessing" not in changes.overview(described({"tanh": [0.6]}, base=[0.5]))


def test_how_it_is_compared_is_told(described):
    single = changes.method(described({"tanh": [0.6]}, base=[0.5]))
    assert single.startswith("The intervals are Newcombe's, for the 10,000 test images of single runs.")
    assert "corrected for 1 comparison by Holm's procedure" in single
    several = changes.method(described({"tanh": [0.6, 0.64], "GELU": [0.5, 0.5]}, base=[0.5, 0.52]))
    assert "Student's (2 degrees of freedom) of differences paired by seed" in several
    assert "pooled over the 3 trainings that learn, each with 2 seeds" in several
    assert "corrected for 2 comparisons" in several


def test_rates_that_would_have_been_better_are_told(described):
    tried = {
        changes.MOMENTUM: {"0.05": 0.61, "0.1": 0.6, "0.02": 0.6},
        "plain SGD": {"0.2": 0.5, "0.4": 0.52, "0.1": 0.51},
        "Adam": {"0.002": 0.6, "0.001": None},
        "AdamW": {"0.002": 0.6, "0.001": 0.6},
        "Muon": {"0.03": None, "0.1": 0.6},
    }
    found = described(tried=tried)
    assert changes.rates_words(found) == (
        "The rate that is used, on the images held out: it is the best of those tried for momentum SGD; "
        "it is the best, but at the edge of those tried, for AdamW; for plain SGD 0.4 would have been better than 0.2 "
        "(52.00% against 50.00%); one rate alone was tried for Adam; not run: Nesterov SGD, RMSprop, Muon."
    )
    table = tables.optimizer_rates(found["rates"])
    rows = table[table["optimizer"] == "plain SGD"].to_numpy().tolist()
    assert rows == [
        ["plain SGD", "0.2", "yes", "50.00%"],
        ["plain SGD", "0.4", "", "52.00%"],
        ["plain SGD", "0.1", "", "51.00%"],
    ]
    assert table[table["optimizer"] == "RMSprop"].to_numpy().tolist() == [["RMSprop", "1", "yes", "not run"]]


def test_the_table_has_cost_accuracy_and_difference_of_every_change(described):
    found = described({"2 × filters": [0.68, 0.7], "tanh": [0.6, None], "GELU": [0.6, 0.61]}, base=[0.6, 0.61])
    table = tables.changes(found["entries"]).set_index("change")
    assert len(table) == 28
    assert table.columns[-1] == "difference, points"
    base, wide, tanh, sigmoid = (table.loc[name] for name in (BASE, "2 × filters", "tanh", "sigmoid"))
    assert (base["parameters"], base["difference, points"]) == ("62,006", "–")
    parameters = count_parameters(build_model("simple_cnn", width=2.0))
    assert (wide["parameters"], wide["s / epoch"]) == (f"{parameters:,}", "3")
    assert wide["difference, points"].startswith("+8.50 (+")
    assert (tanh["test accuracy"], tanh["difference, points"]) == ("60.00%", "+0.00")
    assert [*sigmoid] == ["–", "–", "not run", "–"]


# --------------------------------------------------------------------------- in the report


def verdicts(found, profile="full"):
    return {claim["claim"]: claim["verdict"] for claim in judge(found["entries"], profile, OWN_CLAIMS)}


def test_claims_are_decided_by_the_corrected_intervals(described):
    found = described(
        {
            "2 × filters": [0.68, 0.7],
            "sigmoid": [0.1, 0.1],
            "batch norm": [0.55, 0.56],
            "crop and flip": [0.601, 0.609],
        },
        base=[0.6, 0.61],
    )
    filters, sigmoid, norm, crops = (
        f"In the simple CNN {words}."
        for words in ("twice as many filters do better", "the sigmoid does worse than ReLU", "batch norm does better",
                      "augmentation does better within as few epochs")
    )  # fmt: skip
    told = verdicts(found)
    assert [told[claim] for claim in (filters, sigmoid, norm, crops)] == [CONFIRMED, CONFIRMED, NOT_CONFIRMED, NOISE]
    (claim,) = [c for c in judge(found["entries"], "full", OWN_CLAIMS) if c["claim"] == filters]
    assert claim["here"] == "69.00 ± 12.71% against 60.50 ± 6.35%, +8.5 points"
    assert "Holm" in claim["test"]
    assert "pooled" in claim["test"]
    assert verdicts(found, "quick")[filters] == TOO_SHORT  # after three steps
    uneven = described({"sigmoid": [0.1, 0.5], "batch norm": [0.7, 0.7]}, base=[0.6, 0.61])
    assert [verdicts(uneven)[claim] for claim in (filters, sigmoid, norm)] == [NOT_RUN, NOT_COMPARABLE, CONFIRMED]


def test_what_a_claim_needs_is_a_change():
    needed = {name for claim in OWN_CLAIMS if claim.figure == "fig-changes" for name in claim.needs}
    assert needed <= {BASE, *(name for of in CHANGES.values() for name in of), *OPTIMIZERS}
    assert len(needed) == 5


def test_runs_that_are_there_are_found_and_none_is_trained(make_run, tiny_dataset, tmp_path, monkeypatch):
    given = sections.values(sections.ONE_CHANGE, "quick")
    with pytest.raises(NotRunError):
        find_changes(given, tiny_dataset, tmp_path / "none", required=True)
    there = changes.entry_configs(given)["activation"]["tanh"][0]
    monkeypatch.setattr("cifarnb.experiment.find", lambda config, *_: make_run() if config in (there,) else None)
    entries, tried = find_changes(given, tiny_dataset, tmp_path, required=True)
    assert [(name, len(same)) for of in entries.values() for name, same in of.items() if same] == [("tanh", 1)]
    assert not any(same for of in tried.values() for same in of.values())


def test_reports_are_compared_in_these_trainings_and_bring_no_weights(described, make_run, tmp_path, copy_records):
    found = described({"tanh": [0.6]}, base=[0.5])
    named = [name for e in found["entries"] for name in e["runs"]]
    for side in ("a", "b"):
        (tmp_path / side).mkdir()
        for name in named:
            copy_records(runs.load(tmp_path / "made-up runs" / name), tmp_path / side / "runs")
        (tmp_path / side / "summary.json").write_text(json.dumps({"networks": [], "changes": found}))
    pairs = compare.compare(tmp_path / "a", tmp_path / "b").pairs
    assert [pair.network for pair in pairs] == ["Simple CNN: base", "Simple CNN: tanh"]
    made = [runs.load(tmp_path / "made-up runs" / name) for name in named]
    assert build.headline_runs(made, {"networks": [], "changes": found}) == []
