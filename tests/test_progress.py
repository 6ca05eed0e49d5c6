from types import SimpleNamespace

import pytest

from cifarnb import progress, training
from cifarnb.config import Config
from cifarnb.models import build_model
from cifarnb.progress import WINDOW, format_seconds, is_watched
from cifarnb.training import fit

CONFIG = Config(model="simple_cnn", epochs=4, train_size=100, batch_size=5, precision="float32", device="cpu")


@pytest.fixture
def clock(monkeypatch):
    """A clock by which a step takes the seconds that ``step`` says of it, a walk 100 and a test of 64 images 1,000."""
    now, steps = [0.0], [0]
    at = SimpleNamespace(step=lambda number: 1.0)
    move_on, walks, predict = training.Batches.count, training.walks, training.predict

    def pass_by(seconds, function):
        def slower(*args):
            now[0] += seconds() if callable(seconds) else seconds
            return function(*args)

        return slower

    def of_a_step():
        steps[0] += 1
        return at.step(steps[0])

    for module in (training, progress):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(training.Batches, "count", pass_by(of_a_step, move_on))
    monkeypatch.setattr(training, "walks", pass_by(100, walks))
    monkeypatch.setattr(training, "predict", pass_by(1000, predict))
    return at


def lines(capsys, dataset, **changes):
    config = CONFIG.replace(**changes)
    fit(build_model(config.model), dataset, config)
    return capsys.readouterr().err.splitlines()


def test_the_time_that_it_will_take_is_announced_once(tiny_dataset, clock, capsys):
    """80 steps of a second, and 4 tests on 64 images that each count as a third of training on as many."""
    (line,) = lines(capsys, tiny_dataset)
    assert line.startswith("simple_cnn, lr 0.001, seed 0: training 4 epochs of 100 images on ")
    assert line.endswith(f" in float32, about {format_seconds(80 + 4 * 64 / 3 / 5)}")


def test_images_held_out_and_views_are_announced_too(tiny_dataset, clock, capsys):
    """20 of 100 images are held out: 64 steps; 84 images are tested on an epoch, 6 views of 64 after the last."""
    (line,) = lines(capsys, tiny_dataset, validation_size=20, tta=True)
    assert line.endswith(f"about {format_seconds(64 + (4 * 84 + 6 * 64) / 3 / 5)}")


@pytest.mark.parametrize("every", [1, 4, 16])
def test_walks_are_announced_too(tiny_dataset, clock, capsys, every):
    (line,) = lines(capsys, tiny_dataset, probe_every=every, probe_points=2)
    assert line.endswith(f"about {format_seconds(80 + 4 * 64 / 3 / 5 + 80 / every * 100)}")


@pytest.mark.parametrize("factor", [2.9, 4, 10])
@pytest.mark.parametrize("policy", ["", "passive"])
def test_steps_that_become_several_times_slower_are_told_of_once(
    tiny_dataset, clock, capsys, monkeypatch, factor, policy
):
    monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    clock.step = lambda number: factor if number > 45 else 1.0
    told = lines(capsys, tiny_dataset)[1:]
    if factor < 3:
        assert not told
        return
    (line,) = told
    assert "times as long as announced; other work shares the machine: stop it" in line
    assert ("OMP_WAIT_POLICY=PASSIVE" in line) is (not policy)


def test_neither_walks_nor_tests_nor_a_single_slow_step_make_a_run_slower(tiny_dataset, clock, capsys):
    clock.step = lambda number: 10.0 if number == 50 else 1.0
    assert len(lines(capsys, tiny_dataset, probe_every=3, probe_points=2)) == 1
    clock.step = lambda number: 1.0 + 2 * WINDOW * (number == 40)
    assert len(lines(capsys, tiny_dataset)) == 1


def test_without_progress_nothing_is_said(tiny_dataset, clock, capsys):
    clock.step = lambda number: 10.0 if number > 30 else 1.0
    fit(build_model("simple_cnn"), tiny_dataset, CONFIG, progress=False)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(("allow_stdin", "watched"), [(True, True), (False, False)])
def test_a_bar_is_shown_where_somebody_can_be_asked(monkeypatch, allow_stdin, watched):
    shell = SimpleNamespace(kernel=SimpleNamespace(_allow_stdin=allow_stdin))
    monkeypatch.setattr(progress, "get_ipython", lambda: shell)
    assert is_watched() is watched


def test_a_batch_log_has_no_bar(tiny_dataset, capsys):
    log = "".join(lines(capsys, tiny_dataset, epochs=1))
    assert "step/s" not in log
    assert "%|" not in log


def test_seconds_are_written_for_people():
    assert [format_seconds(s) for s in (12.4, 150, 7200)] == ["12 s", "2.5 min", "2.0 h"]
