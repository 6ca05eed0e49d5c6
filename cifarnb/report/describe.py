"""The numbers of networks, from the records of their runs."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cifarnb import experiment
from cifarnb.landscape import envelope, smooth, widths
from cifarnb.models import LABELS, build_model, count_multiply_adds, count_operations, count_parameters, label
from cifarnb.report import recipes
from cifarnb.report.changes import Found, beats_guessing
from cifarnb.report.claims import AIMS, ELSEWHERE, REPORTED
from cifarnb.report.findings import final_interval
from cifarnb.report.significance import accuracy, counted, mean_and_interval, paired_difference, ratio_interval, signed
from cifarnb.report.walks import medians_over_steps, swings_over_steps
from cifarnb.runs import Run, group

NEARLY_ALL = 0.95  # of the training images: whoever has so many right has little left to learn from them
LITTLE_LEFT = "More steps have little left to teach there; stronger regularisation or augmentation is what to try"
MUCH_LEFT = "A longer schedule, or a higher learning rate, is what to try"
WINDOW = 50  # steps, over which the loss fluctuates


def describe_network(name: str, runs: Sequence[Run]) -> dict[str, Any]:
    """The numbers of one network from its runs, which differ in the seed; the first is the headline's.

    Accuracies are fractions on the test images.  ``final_accuracy`` is that after the last epoch; ``best_accuracy`` and
    ``best_epochs`` (from 1) are chosen on the test images, so they flatter.  ``mean_train_loss`` is that over all steps
    of training, and ``loss_fluctuation`` the median over the windows of WINDOW steps of the standard deviation of the
    loss in them, both in nats.  These, ``settled_epochs`` and ``seconds_per_epoch`` are given over the seeds,
    ``devices`` are the names of all they ran on, and all else is the first run's.
    """
    width = runs[0].config.width if runs else 1.0
    model = build_model(name, width=width)
    reported = REPORTED.get(name, {})
    description: dict[str, Any] = {
        "name": name,
        "label": label(name, width),
        "parameters": count_parameters(model),
        "multiply_adds": count_multiply_adds(model),
        "reported_accuracy": reported.get("accuracy"),
        "reported_epochs": reported.get("epochs"),
    }
    over_seeds: dict[str, Callable[[Run], float]] = {
        "final_accuracy": lambda run: run.final_accuracy,
        "best_accuracy": lambda run: run.best_accuracy,
        "best_epochs": lambda run: run.best_epoch,
        "settled_epochs": settled_epoch,
        "final_train_loss": lambda run: float(run.history["train_loss"].iloc[-1]),
        "mean_train_loss": lambda run: float(run.losses.mean(dtype=np.float64)),
        "loss_fluctuation": loss_fluctuation,
        "seconds_per_epoch": lambda run: run.seconds_per_epoch,
    }
    of_the_first: dict[str, Callable[[Run], Any]] = {
        "lr": lambda run: run.config.lr,
        "width": lambda run: run.config.width,
        "epochs": lambda run: len(run.history),
        "steps": lambda run: len(run.losses),
        "train_images": lambda run: run.provenance["train_images"],
        "test_images": lambda run: run.provenance["test_images"],
        "devices": lambda _: sorted({run.device for run in runs}),
        "precision": lambda run: run.provenance["precision"],
        "run": lambda run: run.name,
    }
    if not runs:
        return description | dict.fromkeys([*over_seeds, *of_the_first, "diverged", "learns_from", "runs"])
    description |= {key: mean_and_interval([measure(run) for run in runs]) for key, measure in over_seeds.items()}
    description |= {key: measure(runs[0]) for key, measure in of_the_first.items()}
    return description | {
        "diverged": any(run.diverged for run in runs),
        "learns_from": [run.learns_from for run in runs],
        "runs": [run.name for run in runs],
    }


def describe_well(found: Found) -> list[dict[str, Any]]:
    """The numbers of section 1.4: its networks, as ``describe_network`` has them, with more.

    - ``tta_accuracy``, over the seeds; ``operations`` of a run's training (two for every multiply-add, forward and
      twice as many backward), its ``seconds``, and the ``share_of_peak``, where that is known;
    - of the network made for speed ``muon`` and ``sgd``, the two optimizers with the seeds that both have;
    - of that with six blocks ``ladder``, ``left_out`` and ``variants``: the ``rungs``, on images held out; of its first
      and last rung ``write_up`` and ``recipe``; and as ``long`` what is left out over as many epochs as the result has.
    """
    networks = [describe_network(name, runs) | _cost(runs) for name, runs in found["networks"].items()]
    by_name = {network["name"]: network for network in networks}
    fast, gap = by_name[recipes.FAST], by_name[recipes.GAP]
    fast["muon"], fast["sgd"] = _sides(found["networks"][recipes.FAST], found["sgd"][recipes.FAST])
    rungs = [*found["ladder"].values()]
    gap["write_up"], gap["recipe"] = _sides(rungs[0], rungs[-1])
    gap["ladder"] = _rungs(found["ladder"], {name: rungs[i - 1] for i, name in enumerate(found["ladder"]) if i})
    gap["left_out"] = _rungs(found["left_out"], {recipes.LEFT_OUT: rungs[-1]})
    left_out = found["left_out"][recipes.LEFT_OUT]
    gap["variants"] = _rungs(found["variants"], dict.fromkeys(found["variants"], left_out))
    gap["long"] = _long(found["long"][recipes.GAP], found["networks"][recipes.GAP])
    return networks


def _cost(runs: Sequence[Run]) -> dict[str, Any]:
    """What a run's training costs, and what test-time augmentation gives."""
    if not runs:
        return dict.fromkeys(["tta_accuracy", "operations", "seconds", "share_of_peak"])
    run = runs[0]
    operations = operations_of(run)
    with_views = [run.tta_accuracy for run in runs]
    seconds = mean_and_interval([float(run.history["seconds"].sum()) for run in runs])  # of the training passes
    peak = experiment.peak(run)
    return {
        "tta_accuracy": None if None in with_views else mean_and_interval([a for a in with_views if a is not None]),
        "operations": operations,
        "seconds": seconds,
        "share_of_peak": operations / seconds["mean"] / peak if peak else None,
    }


def operations_of(run: Run) -> float:
    """Multiplications and additions of its training."""
    model = build_model(**run.config.network())
    return float(count_operations(model)) * run.provenance["train_images"] * len(run.history)


def _sides(first: Sequence[Run], second: Sequence[Run]) -> list[dict[str, Any] | None]:
    """Runs of two kinds with the seeds that both have; None twice if they have none in common."""
    seeds = {run.config.seed for run in first} & {run.config.seed for run in second}
    return [_side([run for run in runs if run.config.seed in seeds]) if seeds else None for runs in (first, second)]


def _side(runs: Sequence[Run]) -> dict[str, Any]:
    return {
        "seeds": [run.config.seed for run in runs],
        "final_accuracy": mean_and_interval([run.final_accuracy for run in runs]),
        "steps": min(len(run.losses) for run in runs),
        "test_images": runs[0].provenance["test_images"],
        "runs": [run.name for run in runs],
    }


def _long(runs: Sequence[Run], without: Sequence[Run]) -> dict[str, Any] | None:
    """Runs with what the recipe leaves out, and what they gain on the test images over those without, by seed."""
    side, beside = _sides(runs, without)
    if side is None:
        return None
    gain, interval = paired_difference(_tested(runs), _tested(without), side["test_images"])
    return side | {"without": beside, "gain": gain, "gain_ci95": [*interval]}


def _rungs(tried: Mapping[str, Sequence[Run]], beside: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    """What was tried, as far as it ran, each with what it gains over what it is set beside, paired by seed.

    ``gain`` and ``gain_ci95`` are on the test images, ``held_out_gain`` and ``held_out_gain_ci95`` on those held out.
    """
    rungs = []
    for name, runs in tried.items():
        if not runs:
            continue
        rung = {"name": name, **_side(runs), "validation_accuracy": mean_and_interval([*_held_out(runs).values()])}
        rung |= dict.fromkeys(("gain", "gain_ci95", "held_out_gain", "held_out_gain_ci95"))
        other = beside.get(name, [])
        if {*_held_out(runs)} & {*_held_out(other)}:
            rung["gain"], interval = paired_difference(_tested(runs), _tested(other), rung["test_images"])
            images = runs[0].config.validation_size
            rung["held_out_gain"], held_out = paired_difference(_held_out(runs), _held_out(other), images)
            rung |= {"gain_ci95": [*interval], "held_out_gain_ci95": [*held_out]}
        rungs.append(rung)
    return {"rungs": rungs, "runs": [name for rung in rungs for name in rung["runs"]]}


def _tested(runs: Sequence[Run]) -> dict[int, float]:
    """Seed → accuracy on the test images, after the last epoch."""
    return {run.config.seed: run.final_accuracy for run in runs}


def _held_out(runs: Sequence[Run]) -> dict[int, float]:
    """Seed → accuracy on the images held out, after the last epoch."""
    return {run.config.seed: float(run.history["validation_accuracy"].iloc[-1]) for run in runs}


def settled_epoch(run: Run) -> int:
    """The first epoch (from 1) from which on the test accuracy stays within a point of that after the last."""
    away = (run.history["test_accuracy"] - run.final_accuracy).abs() > 0.01 + 1e-8  # rounding, of whole images
    return 1 + int(run.history["epoch"][away].max()) if away.any() else 1


def loss_fluctuation(run: Run) -> float:
    """The median over windows of WINDOW steps of the standard deviation of the training loss in them, in nats."""
    window = min(WINDOW, len(run.losses))
    whole = run.losses[: len(run.losses) // window * window].reshape(-1, window)
    with np.errstate(invalid="ignore"):  # NaN, of a run that diverged
        return float(np.median(whole.std(axis=1, dtype=np.float64)))


def gap(run: Run) -> tuple[float, str]:
    """By how much the accuracy on the training images is above that on the test images (0 to 1), and in words."""
    apart = float(run.history["train_accuracy"].iloc[-1]) - run.final_accuracy
    how = ", as they are augmented," if run.config.augment else ""
    return apart, (
        f"the accuracy on the training images{how} is {100 * abs(apart):.1f} points "
        f"{'above' if apart > 0 else 'below'} that on the test images"
    )


def what_is_missing(run: Run, described: Mapping[str, Any]) -> str:
    """How far a network is from the write-up's number, and what its accuracy on the training images says of why.

    ``run`` is the first of those that ``describe_network`` has ``described``.
    """
    reported = described["reported_accuracy"]
    missing = reported - described["final_accuracy"]["mean"]
    if missing <= 0:
        return "The network reaches the write-up's number, or more."
    short = f"The network is {100 * missing:.2f} points short of the write-up's number"
    if final_interval(described)[1] >= reported:
        return f"{short}, which is within noise."
    return f"{short}. {what_to_try([run])}"


def short_of_aim(described: Mapping[str, Any]) -> float:
    """By how much a network trained well misses its aim (0 to 1); the aim of the fast one is with augmented tests."""
    with_views = described["tta_accuracy"] if described["name"] == recipes.FAST else None
    return float(AIMS[described["name"]] - (with_views or described["final_accuracy"])["mean"])


def what_is_reached(described: Mapping[str, Any], *, comparable: bool) -> str:
    """A network trained well, of ``describe_well``, beside the write-up's number and, where comparable, its aim.

    ``comparable`` says that it was trained on all of CIFAR-10's training images and tested on all of its test images.
    """
    name, final, with_views = described["name"], described["final_accuracy"], described["tta_accuracy"]
    line = f"**{described['label']}:** {accuracy(final)} after {counted(described['epochs'], 'epoch')}"
    line += f", {accuracy(with_views)} with augmented tests" if with_views else ""
    if reported := described["reported_accuracy"]:
        line += f"; {signed(100 * (final['mean'] - reported), '.1f')} points from the write-up's {reported:.2%}"
    if comparable:
        missing, aim = short_of_aim(described), f"the aim of {AIMS[name]:.1%}"
        aim += " with augmented tests" if name == recipes.FAST else ""
        line += f"; {100 * missing:.2f} points short of {aim}" if missing > 0 else f"; it reaches {aim}"
        line += f"; published elsewhere: {ELSEWHERE[name]}"
    return f"{line}."


def what_to_try(runs: Sequence[Run]) -> str:
    """What is left to try with networks that fall short on the test images, a run each: by their training images."""
    told: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        right = float(run.history["train_accuracy"].iloc[-1])
        advice = LITTLE_LEFT if right >= NEARLY_ALL else MUCH_LEFT
        images = f"training images{', as they are augmented' if run.config.augment else ''}"
        told.setdefault((images, advice), []).append(f"{LABELS[run.config.model]} {right:.1%}")
    return " ".join(f"Right of the {images}: {'; '.join(who)}. {advice}." for (images, advice), who in told.items())


def compare_with_batch_norm(
    described: Mapping[str, Mapping[str, Any]], words: Mapping[str, str]
) -> tuple[list[str], list[str], list[str]]:
    """What is smaller with batch norm, what is larger, and what within noise: words for keys of ``described``.

    ``described`` holds the measures of ``vgg_a`` and ``vgg_a_bn``, each as ``mean_and_interval`` gives it; what
    decides is the interval that decides about the claims, ``ratio_interval``.
    """
    smaller: list[str] = []
    larger: list[str] = []
    noise: list[str] = []
    for key, word in words.items():
        (low, high), _ = ratio_interval(described["vgg_a"][key], described["vgg_a_bn"][key])
        (smaller if low > 0 else larger if high < 0 else noise).append(word)
    return smaller, larger, noise


def envelopes(runs: Sequence[Run], smoothing: int, every: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Network → the lowest and the highest loss of its runs at each step, for ``norm_figures.loss_landscape``.

    ``smoothing`` is over how many steps each loss is the mean, and ``every`` how many steps lie between those kept.
    """
    by_network = group(runs, "model").items()
    return {name: envelope([smooth(run.losses, smoothing)[::every] for run in same]) for name, same in by_network}


def describe_landscape(runs: Sequence[Run]) -> dict[str, Any]:
    """One network's loss landscape, from runs that differ in the learning rate and the seed: its band's width in nats.

    For each seed, over the steps: the median, that of the second half of training, and the maximum.
    """
    by_seed = group(runs, "seed")
    by_rate = group(runs, "lr")
    bands = [widths(*envelope([run.losses for run in same])) for same in by_seed.values()]
    return {
        "width": runs[0].config.width,
        "lrs": [*by_rate],
        "final_accuracy": {f"{lr:g}": [run.final_accuracy for run in same] for lr, same in by_rate.items()},
        "steps": min(len(band) for band in bands),
        "learns_from": [run.learns_from for run in runs],
        "median_band_width": mean_and_interval([float(np.median(band)) for band in bands]),
        "late_band_width": mean_and_interval([float(np.median(band[len(band) // 2 :])) for band in bands]),
        "maximum_band_width": mean_and_interval([float(band.max()) for band in bands]),
        "runs": [run.name for run in runs],
    }


def describe_learnt(runs: Mapping[str, Sequence[Run]]) -> dict[str, dict[str, Any]] | None:
    """The landscape of each network over those learning rates alone at which all of their runs beat guessing.

    ``runs`` has those of each network, as ``describe_landscape`` takes them.  None if these are all rates, or fewer
    than two.
    """
    stuck = {run.config.lr for same in runs.values() for run in same if not beats_guessing(run)}
    learnt = {name: [run for run in same if run.config.lr not in stuck] for name, same in runs.items()}
    if not stuck or any(len(group(same, "lr")) < 2 for same in learnt.values()):
        return None
    return {name: describe_landscape(same) for name, same in learnt.items()}


def describe_probes(runs: Sequence[Run], since: Mapping[int, int | None]) -> dict[str, Any]:
    """The walks of one network's runs, which differ in the seed: the medians over the steps, over the seeds.

    ``loss_range`` is that of the loss on a walk (nats), ``gradient_change`` the largest ‖change of the gradient‖₂ on
    it, ``beta`` the effective smoothness.  Where a run diverged throughout, infinite.  ``beta_swing`` is how far β goes
    up and down from walk to walk: its 90th percentile divided by the 10th.

    ``since`` says by seed from which step on both networks learn (``walks.compared_from``): the medians are over those
    steps, which ``compared_from`` holds, and seeds with None are left out; if none is left, the medians are None.
    """
    words = {"loss_range": "range of the loss", "gradient_change": "change of the gradient", "beta": "β"}
    described: dict[str, Any] = {
        "width": runs[0].config.width,
        "lr": runs[0].config.lr,
        "steps": len(runs[0].losses),
        "learns_from": [run.learns_from for run in runs],
        "compared_from": [since[run.config.seed] for run in runs],
        "runs": [run.name for run in runs],
    }
    for name, measure in words.items():
        described[name] = _over_seeds(medians_over_steps(runs, since, measure))
    described["beta_swing"] = _over_seeds(swings_over_steps(runs, since, words["beta"]))
    return described


def _over_seeds(values: Sequence[float]) -> dict[str, Any] | None:
    """Their mean and interval, where NaN, of a run that diverged throughout, is infinite; None of none."""
    finite = [math.inf if math.isnan(value) else value for value in values]
    return mean_and_interval(finite) if finite else None


def best_rate(described: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The learning rate with the highest mean accuracy over the seeds, of ``describe_rates``, and that accuracy."""
    ends = {rate: mean_and_interval(values) for rate, values in described["final_accuracy"].items()}
    best = max(ends, key=lambda rate: float(ends[rate]["mean"]))
    return best, ends[best]


def describe_rates(runs: Sequence[Run]) -> dict[str, Any]:
    """One network's runs over a grid of learning rates and seeds: how many rates come near the best one.

    ``within_one_point`` counts, for each seed, the rates whose accuracy is at most a point below that of the best.
    """
    by_seed = group(runs, "seed")
    by_rate = group(runs, "lr")
    accuracies = [[run.final_accuracy for run in same] for same in by_seed.values()]
    # A run is right on a whole number of images, so a millionth of a point is rounding.
    counts = [sum(value >= max(values) - 0.01 - 1e-8 for value in values) for values in accuracies]
    return {
        "width": runs[0].config.width,
        "steps": max(len(run.losses) for run in runs),  # of one that did not diverge
        "learns_from": [run.learns_from for run in runs],
        "final_accuracy": {f"{lr:g}": [run.final_accuracy for run in same] for lr, same in by_rate.items()},
        "diverged": sorted({run.config.lr for run in runs if run.diverged}),
        "within_one_point": mean_and_interval(counts),
        "runs": [run.name for run in runs],
    }
