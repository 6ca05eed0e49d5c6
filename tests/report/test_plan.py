"""What is missing and how long it takes, from runs that are there and a clock of ours."""

import pytest

from cifarnb import bench, experiment, training
from cifarnb.config import Config
from cifarnb.models import build_model, count_multiply_adds
from cifarnb.report import plan, recipes, sections


@pytest.fixture
def two_networks(monkeypatch):
    """A report of one section with the simple CNN, two seeds, and VGG-A a quarter as wide, with walks."""
    given = {"data": "synthetic", "epochs": 3, "train_size": 200, "test_size": 30, "batch_size": 64}
    simple = [Config(model="simple_cnn", seed=seed, **given) for seed in (0, 1)]
    walks = {"probe_every": 5, "probe_points": 2, "probe_along": ("gradient", "step")}
    narrow = Config(model="vgg_a", width=0.25, **given, **walks)
    monkeypatch.setattr(sections, "names", lambda: ["01_simple_cnn"])
    monkeypatch.setattr(sections, "all_configs", lambda *_: [*simple, narrow, simple[0]])
    return [*simple, narrow]


@pytest.fixture
def clock(monkeypatch):
    """Every network makes 100 images a second, 50 in float32; returns what was timed."""
    timed = []

    def time_engine(config, steps):
        timed.append(config)
        return (50.0 if config.precision == "float32" else 100.0), 0.0

    monkeypatch.setattr(bench, "time_engine", time_engine)
    return timed


def test_what_is_missing_and_how_long_it_takes(two_networks, clock, tiny_dataset, tmp_path):
    simple, _, _ = two_networks
    experiment.run(simple, tiny_dataset, tmp_path, progress=False)
    found = plan.plan("full", tiny_dataset, {"runs_dir": str(tmp_path)})
    assert found.there == {"01_simple_cnn": 2}  # the same run is asked for twice
    assert [task.config for task in found.tasks] == two_networks[1:]
    each = plan.seconds(found.tasks)
    epochs = 3 * (200 + 30 / 3) / 100
    walks = 3 * (1 + 2 * 2) * 64 / 50  # before steps 0, 5 and 10 of 12
    assert each == pytest.approx([epochs, epochs + walks])
    assert len(clock) == 3
    assert plan.in_all(each, 2) == pytest.approx(epochs + walks)  # the longest one
    assert plan.in_all(each, 1) == pytest.approx(2 * epochs + walks)
    multiply_adds = [count_multiply_adds(build_model("simple_cnn")), count_multiply_adds(build_model("vgg_a", 0, 0.25))]
    wanted = 6 * (multiply_adds[0] * 630 + multiply_adds[1] * (630 + 3 * 5 * 64))
    assert found.operations == pytest.approx(wanted)
    rows = plan.table(found, each)
    assert [(row["there"], row["network"], row["missing"], row["takes"]) for row in rows] == [
        ("2", "Simple CNN", "1", "6 s"), ("", "VGG-A, ¼ as wide", "1", "26 s")
    ]  # fmt: skip


def test_of_a_run_that_was_begun_what_is_left(two_networks, clock, tiny_dataset, tmp_path, monkeypatch):
    simple = two_networks[0]
    monkeypatch.setattr(training, "CHECKPOINT_SHARE", float("inf"))

    def fit_and_die(model, dataset, config, checkpoint, **options):
        training.fit(model, dataset, config, checkpoint, stop_after=2, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "fit", fit_and_die)
    with pytest.raises(KeyboardInterrupt):
        experiment.run(simple, tiny_dataset, tmp_path, progress=False)
    found = plan.plan("full", tiny_dataset, {"runs_dir": str(tmp_path)})
    assert plan.seconds(found.tasks)[0] == pytest.approx((200 + 30 / 3) / 100)
    (checkpoint,) = tmp_path.glob("*.part/checkpoint.pt")
    checkpoint.write_bytes(b"PK")
    found = plan.plan("full", tiny_dataset, {"runs_dir": str(tmp_path)})
    assert plan.seconds(found.tasks)[0] == pytest.approx(3 * (200 + 30 / 3) / 100)
    assert checkpoint.exists()


def test_a_report_announces_what_takes_more_than_a_minute_and_times_nothing_else(
    two_networks, clock, tiny_dataset, tmp_path, monkeypatch
):
    found = plan.plan("full", tiny_dataset, {"runs_dir": str(tmp_path)})
    assert plan.announcement(found, 1) == ""
    assert clock == []
    monkeypatch.setattr(plan, "SOON", 1.0)
    assert plan.announcement(found, 2) == (
        "3 of 3 runs are missing; to train them takes about 26 s on this machine, 2 at a time"
    )


def test_recipes_that_cost_as_much_are_timed_once():
    given = sections.values(sections.WELL, "full")
    tried = [*recipes.ladder_configs(given).values(), *recipes.left_out_configs(given).values()]
    kinds = {plan.Task("", config, 1.0, 0).kind for (config,) in [*tried, *recipes.variant_configs(given).values()]}
    assert sorted(kind.batch_size for kind in kinds) == [32, 128]
