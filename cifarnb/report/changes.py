"""Section 1.5, one change at a time: the runs that it asks for, what they show, and the words for it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cifarnb.config import Config
from cifarnb.data import CIFAR10_CLASSES
from cifarnb.models import build_model, count_parameters
from cifarnb.report import significance
from cifarnb.report.significance import (
    accuracy,
    corrected_intervals,
    corrected_sampling,
    counted,
    error_in_blocks,
    mean_and_interval,
    points,
)
from cifarnb.runs import Run

BASE = "base"
SIDES = ("better", "worse", "no more than chance")  # where an interval of the difference from it can lie
MOMENTUM = "momentum SGD"  # the base's optimizer
_PLAIN: dict[str, Any] = {"model": "simple_cnn", "optimizer": "sgd", "momentum": 0.9, "nesterov": False}
# Group → what is changed → the fields in which that differs from the base.
CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "filters": {
        "½ × filters": {"width": 0.5},
        "2 × filters": {"width": 2.0},
        "4 × filters": {"width": 4.0},
    },
    "neurons": {
        "½ × neurons": {"neurons": 0.5},
        "2 × neurons": {"neurons": 2.0},
        "4 × neurons": {"neurons": 4.0},
    },
    "activation": {
        "LeakyReLU": {"activation": "leaky_relu"},
        "GELU": {"activation": "gelu"},
        "SiLU": {"activation": "silu"},
        "tanh": {"activation": "tanh"},
        "sigmoid": {"activation": "sigmoid"},
    },
    "loss": {
        "label smoothing": {"label_smoothing": 0.1},
        "squared error": {"loss": "mse"},
    },
    "regularisation": {
        "weight decay": {"weight_decay": 5e-4},
        "L1 penalty": {"l1": 1e-5},
        "dropout": {"dropout": 0.25},
        "crop and flip": {"augment": True},
    },
    "structure": {
        "batch norm": {"batch_norm": True},
        "residual connection": {"residual": True},
        "average pooling": {"pooling": "average"},
        "stride for pooling": {"pooling": "stride"},
    },
}
# The parameter with the learning rates of each optimizer, and its fields; AdamW without a decay would be Adam.
OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    MOMENTUM: ("momentum_lrs", {}),
    "plain SGD": ("sgd_lrs", {"momentum": 0.0}),
    "Nesterov SGD": ("nesterov_lrs", {"nesterov": True}),
    "RMSprop": ("rmsprop_lrs", {"optimizer": "rmsprop"}),
    "Adam": ("adam_lrs", {"optimizer": "adam"}),
    "AdamW": ("adamw_lrs", {"optimizer": "adamw", "weight_decay": 0.01}),
    "Muon": ("muon_lrs", {"optimizer": "muon"}),
}


def entry_configs(given: Mapping[str, Any]) -> dict[str, dict[str, list[Config]]]:
    """Group → what is changed → its runs, one a seed, from the section's parameters; the base is the first group."""
    optimizers = {
        name: fields | {"lr": given[rates][0]} for name, (rates, fields) in OPTIMIZERS.items() if name != MOMENTUM
    }
    groups: dict[str, dict[str, dict[str, Any]]] = {BASE: {BASE: {}}, **CHANGES, "optimizer": optimizers}
    return {
        group: {name: _configs(given, given["seeds"], **fields) for name, fields in of.items()}
        for group, of in groups.items()
    }


def tried_configs(given: Mapping[str, Any]) -> dict[str, dict[str, list[Config]]]:
    """Optimizer → learning rate → its runs with training images held out; the first rate is the one that is used."""
    held_out = {"validation_size": given["held_out"]}
    return {
        name: {
            f"{lr:g}": _configs(given, given["tried_seeds"], **fields, **held_out, lr=lr) for lr in given[rates]
        }
        for name, (rates, fields) in OPTIMIZERS.items()
    }  # fmt: skip


def all_configs(given: Mapping[str, Any]) -> list[Config]:
    """The same in a row, those of the base first."""
    kinds = (entry_configs(given), tried_configs(given))
    return [config for groups in kinds for of in groups.values() for same in of.values() for config in same]


def _configs(given: Mapping[str, Any], seeds: Sequence[int], **fields: Any) -> list[Config]:
    base = _PLAIN | {"lr": given[OPTIMIZERS[MOMENTUM][0]][0]}
    return [Config.from_parameters(given, **base | fields, seed=seed) for seed in seeds]


Found = Mapping[str, Mapping[str, Sequence[Run]]]  # as ``entry_configs`` and ``tried_configs`` have the configs


def describe(entries: Found, tried: Found) -> dict[str, Any]:
    """The numbers of section 1.5, as ``summary.find_changes`` gives the runs.

    - ``entries``: the base, then every change with its numbers as ``_entry`` has them, its ``difference`` from the base
      (a mean over the seeds that both have; accuracies are 0 to 1) and ``ci95``, that difference's interval, corrected
      by Holm for the number of those that are compared.  Compared are changes that have all the base's seeds, and learn
      with all of them or with none;
    - ``seeds``: those of the base; ``compared``: how many changes are; with several seeds ``error``: the standard error
      of every difference, with ``freedom`` degrees, from the spread pooled over the ``pooled`` entries that learn;
    - ``rates``: every optimizer's learning rates with the accuracy on images held out, the one that is used first.
    """
    described = [_entry(group, name, runs) for group, of in entries.items() for name, runs in of.items()]
    rates = [_rate(name, lr, runs) for name, of in tried.items() for lr, runs in of.items()]
    return {"entries": described, **_compare(described), "rates": rates}


def _entry(group: str, name: str, runs: Sequence[Run]) -> dict[str, Any]:
    """The numbers of one entry; None for what was not measured if it has no run.  ``learns`` is a truth a seed."""
    entry: dict[str, Any] = {"group": group, "name": name, "difference": None, "ci95": None}
    if not runs:
        keys = ("parameters", "final_accuracy", "seconds_per_epoch", "steps", "test_images")
        return entry | dict.fromkeys(keys) | {"seeds": [], "learns": [], "runs": []}
    run = runs[0]
    return entry | {
        "parameters": count_parameters(build_model(**run.config.network())),
        "final_accuracy": mean_and_interval([run.final_accuracy for run in runs]),
        "seconds_per_epoch": mean_and_interval([run.seconds_per_epoch for run in runs]),
        "steps": min(len(run.losses) for run in runs),
        "test_images": run.provenance["test_images"],
        "seeds": [run.config.seed for run in runs],
        "learns": [not run.diverged and beats_guessing(run) for run in runs],
        "runs": [run.name for run in runs],
    }


def beats_guessing(run: Run) -> bool:
    """Whether its accuracy after the last epoch is above that of guessing, as far as the test images can tell."""
    return significance.beats_guessing(run.final_accuracy, run.provenance["test_images"], len(CIFAR10_CLASSES))


def _rate(optimizer: str, lr: str, runs: Sequence[Run]) -> dict[str, Any]:
    held_out = [float(run.history["validation_accuracy"].iloc[-1]) for run in runs]
    measured = mean_and_interval(held_out) if held_out else None
    return {"optimizer": optimizer, "lr": lr, "validation_accuracy": measured, "runs": [run.name for run in runs]}


def _compare(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Put into the changes' numbers their differences from the base, the first; returns how they were compared."""
    base, *changes = entries
    how: dict[str, Any] = {"seeds": base["seeds"], "compared": 0, "pooled": 0, "error": None, "freedom": None}
    of_base = _by_seed(base)
    for change in changes:
        if pairs := [(value, of_base[seed]) for seed, value in _by_seed(change).items() if seed in of_base]:
            change["difference"] = float(np.mean([here - there for here, there in pairs]))
    compared = [change for change in changes if _is_even(change) and {*of_base} <= {*change["seeds"]}]
    if not of_base or not compared or not _is_even(base):
        return how
    if len(of_base) == 1:
        accuracies = [_by_seed(change)[base["seeds"][0]] for change in compared]
        intervals = corrected_sampling(accuracies, base["final_accuracy"]["mean"], base["test_images"])
    else:
        pooled = [[_by_seed(entry)[seed] for seed in of_base] for entry in [base, *compared] if all(entry["learns"])]
        how["pooled"] = len(pooled)
        if len(pooled) < 2:
            return how
        how["error"], how["freedom"] = error_in_blocks(np.array(pooled))
        intervals = corrected_intervals([c["difference"] for c in compared], how["error"], how["freedom"])
    for change, interval in zip(compared, intervals, strict=True):
        change["ci95"] = [*interval]
    return how | {"compared": len(compared)}


def _by_seed(entry: Mapping[str, Any]) -> dict[int, float]:
    """Seed → accuracy."""
    return dict(zip(entry["seeds"], entry["final_accuracy"]["values"], strict=True)) if entry["seeds"] else {}


def _is_even(entry: Mapping[str, Any]) -> bool:
    """Whether it learns with all seeds, or with none: else its mean says nothing, and its spread is another's."""
    return len({*entry["learns"]}) == 1


def overview(described: Mapping[str, Any]) -> str:
    """How many changes do better than the base and how many worse, in a sentence or two."""
    base, *changes = described["entries"]
    if not base["runs"]:
        return "Not run: the base, so nothing can be compared with it."
    found = {where: len(same) for where, same in _sides(changes).items()}
    found |= {what: len(names) for what, names in _left_out(changes).items() if names}
    words = f"The base reaches **{accuracy(base['final_accuracy'])}** after {counted(base['steps'], 'step')}. "
    words += f"Of {counted(len(changes), 'change')}: {', '.join(f'{n} {what}' for what, n in found.items())}."
    return words if any(base["learns"]) else f"{words} But the base does no better than guessing, so this says little."


def group_words(described: Mapping[str, Any], group: str) -> str:
    """One sentence on a group: what is better than the base, what is worse, and what is no more than chance."""
    changes = [entry for entry in described["entries"] if entry["group"] == group]
    parts = []
    for where, found in _sides(changes).items():
        told = [f"{_name(entry)} {points(entry['difference'], entry['ci95'])}" for entry in found]
        parts += [f"{where}: {', '.join(told)}"] if told else []
    compared = bool(parts)
    parts += [f"{what}: {', '.join(names)}" for what, names in _left_out(changes).items() if names]
    words = "; ".join(parts)
    return f"In points from the base, {words}." if compared else f"{words[:1].upper()}{words[1:]}."


def method(described: Mapping[str, Any]) -> str:
    """What the intervals are, in plain words."""
    count, base = described["compared"], described["entries"][0]
    if not count:
        return "Nothing is compared."
    if described["error"] is None:
        kind = f"Newcombe's, for the {base['test_images']:,} test images of single runs"
    else:
        kind = (
            f"Student's ({described['freedom']} degrees of freedom) of differences paired by seed; the spread is "
            f"pooled over the {described['pooled']} trainings that learn, each with "
            f"{counted(len(base['seeds']), 'seed')}, and gives every difference a standard error of "
            f"{100 * described['error']:.2f} points"
        )
    return (
        f"The intervals are {kind}. They are corrected for {counted(count, 'comparison')} by Holm's procedure: with a "
        "probability of 95 % not one of them leaves out 0 by chance."
    )


def rates_words(described: Mapping[str, Any]) -> str:
    """For which optimizers the rate that is used is the best of those tried on images held out, and where not.

    The best may lie at the edge of those tried; then a better one may lie beyond it.
    """
    best, edge, other, single, missing = [], [], [], [], []
    for name in OPTIMIZERS:
        used, *rest = (rate for rate in described["rates"] if rate["optimizer"] == name)
        tried = [rate for rate in rest if rate["validation_accuracy"]]
        if not used["validation_accuracy"]:
            missing.append(name)
        elif not tried:
            single.append(name)
        else:
            top = max(tried, key=lambda rate: float(rate["validation_accuracy"]["mean"]))
            here, there = (accuracy(rate["validation_accuracy"]) for rate in (used, top))
            if top["validation_accuracy"]["mean"] > used["validation_accuracy"]["mean"]:
                other.append(f"{name} {top['lr']} would have been better than {used['lr']} ({there} against {here})")
            elif min(of := [float(rate["lr"]) for rate in tried]) < float(used["lr"]) < max(of):
                best.append(name)
            else:
                edge.append(name)
    parts = [f"it is the best of those tried for {', '.join(best)}"] if best else []
    parts += [f"it is the best, but at the edge of those tried, for {', '.join(edge)}"] if edge else []
    parts += [f"for {'; for '.join(other)}"] if other else []
    parts += [f"one rate alone was tried for {', '.join(single)}"] if single else []
    parts += [f"not run: {', '.join(missing)}"] if missing else []
    return f"The rate that is used, on the images held out: {'; '.join(parts)}."


def side(entry: Mapping[str, Any]) -> str:
    """The one of SIDES that its interval lies on; without an interval it is ``not compared``."""
    if entry["ci95"] is None:
        return "not compared"
    low, high = entry["ci95"]
    better, worse, chance = SIDES
    return better if low > 0 else worse if high < 0 else chance


def _sides(changes: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The changes that are compared, by where their intervals lie, each side from the best to the worst."""
    ranked = sorted((c for c in changes if c["ci95"]), key=lambda change: -change["difference"])
    return {name: [change for change in ranked if side(change) == name] for name in SIDES}


def _left_out(changes: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Why some are not compared, and their names."""
    missing = [change["name"] for change in changes if not change["runs"]]
    uneven = [change["name"] for change in changes if change["runs"] and not _is_even(change)]
    rest = [change["name"] for change in changes if not change["ci95"]]
    return {
        "learning with some seeds only": uneven,
        "not compared": [name for name in rest if name not in {*missing, *uneven}],
        "not run": missing,
    }


def _name(entry: Mapping[str, Any]) -> str:
    return entry["name"] if any(entry["learns"]) else f"{entry['name']} (does not learn)"
