"""One function per table: records in, a pandas DataFrame of text cells out, as the reader is to see them."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cifarnb import insight
from cifarnb.config import Config
from cifarnb.models import LABELS, build_model, count_multiply_adds, count_parameters, list_layers
from cifarnb.report.claims import PUBLISHED, REPORTED
from cifarnb.report.recipes import WRITE_UP
from cifarnb.report.significance import accuracy, counted, listed, mean_and_interval, points, signed, spread
from cifarnb.runs import Run

NOT_RUN = "not run"
OPTIMIZERS = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop", "muon": "Muon"}
SCHEDULES = {
    "none": "none",
    "cosine": "CosineAnnealingLR",
    "one_cycle": "OneCycleLR",
    "triangle": "up and down",
    "linear": "down",
}
PLUS_MINUS = "± is half the 95 % interval over the seeds; where that would reach below 0, their values are in brackets"
_CLAIMS = {False: ("claims", "the write-up"), True: ("own_claims", "claim")}  # whose: key in a summary, heading


def layers(model: str, width: float = 1.0) -> pd.DataFrame:
    """The layers of a network of that width: layer, output shape, parameters; the last row is the sum."""
    network = build_model(model, width=width)
    rows = [(layer.name, _shape(layer.output_shape), f"{layer.parameters:,}") for layer in list_layers(network)]
    rows.append(("**all**", "", f"{count_parameters(network):,}"))
    return pd.DataFrame(rows, columns=["layer", "output shape", "parameters"])


def models() -> pd.DataFrame:
    """All networks: parameters and multiply-adds per image."""
    built = {name: build_model(name) for name in LABELS}
    rows = [(n, LABELS[n], f"{count_parameters(m):,}", f"{count_multiply_adds(m):,}") for n, m in built.items()]
    return pd.DataFrame(rows, columns=["model", "network", "parameters", "multiply-adds per image"])


def config_and_result(runs: Sequence[Run]) -> pd.DataFrame:
    """Configuration and result of one network as the write-up has them: a column "reported" and one "here".

    ``runs`` differ in the seed; accuracies and seconds are their means, the rest is the first one's.  With images held
    out there is also the epoch that is best on those.
    """
    run, config = runs[0], runs[0].config
    reported = REPORTED.get(config.model, {})
    optimizer = OPTIMIZERS[config.optimizer]
    if config.optimizer == "sgd" and config.momentum:
        optimizer += f", {'Nesterov ' if config.nesterov else ''}momentum {config.momentum:g}"
    final = mean_and_interval([r.final_accuracy for r in runs])
    best = mean_and_interval([r.best_accuracy for r in runs])
    best_epochs = ", ".join(str(r.best_epoch) for r in runs)
    seconds, mean_seconds = reported.get("seconds_per_epoch"), statistics.fmean(r.seconds_per_epoch for r in runs)
    rows = [
        ("optimizer", reported.get("optimizer"), optimizer),
        ("learning rate", reported.get("lr"), f"{config.lr:g}"),
        ("schedule", reported.get("schedule"), SCHEDULES[config.schedule]),
        ("epochs", reported.get("epochs"), len(run.history)),
        ("batch size", None, config.batch_size),
        ("augmentation", None, "random crop, flip" if config.augment else "none"),
        ("weight decay, label smoothing", None, f"{config.weight_decay:g}, {config.label_smoothing:g}"),
        ("training images", None, f"{run.provenance['train_images']:,}"),
        ("test images", None, f"{run.provenance['test_images']:,}"),
        ("seeds", None, _seeds(runs)),
        ("device", None, f"{listed(r.device for r in runs)}, {run.provenance['precision']}"),
        ("seconds per epoch", seconds and f"about {seconds:g}", f"{mean_seconds:.3g}"),
        ("**test accuracy, last epoch**", percent(reported.get("accuracy")), f"**{accuracy(final)}**"),
        ("test accuracy, best epoch", _best(reported), f"{accuracy(best)} (epoch {best_epochs})"),
    ]
    if config.validation_size:
        chosen = run.selected_epoch
        found = percent(run.history["test_accuracy"][run.history["epoch"] == chosen].item())
        rows.append(("test accuracy, best epoch on the images held out", None, f"{found} (epoch {chosen})"))
    stated = [(what, "not stated" if told is None else str(told), str(here)) for what, told, here in rows]
    return pd.DataFrame(stated, columns=["", "reported", "here"])


def _best(reported: Mapping[str, Any]) -> str | None:
    return f"at epoch {reported['best_epoch']}" if "best_epoch" in reported else None


def networks(summary: Mapping[str, Any]) -> pd.DataFrame:
    """All networks beside the write-up's numbers, from ``cifarnb.report.summary.summarize``."""
    rows = []
    for network in summary["networks"]:
        ran = network["final_accuracy"] is not None
        rows.append(
            {
                "network": network["label"],
                **_size(network),
                "epochs": f"{network['epochs']}" if ran else "–",
                "s / epoch": f"{network['seconds_per_epoch']['mean']:.3g}" if ran else "–",
                "reported": percent(network["reported_accuracy"]) or "–",
                "last epoch": accuracy(network["final_accuracy"]) if ran else NOT_RUN,
                "best epoch": accuracy(network["best_accuracy"]) if ran else "–",
            }
        )
    return pd.DataFrame(rows)


def timed(networks: Sequence[Mapping[str, Any]]) -> str:
    """For a caption: where the seconds of the networks that ran are from; empty if none did."""
    devices = [device for network in networks if network["final_accuracy"] for device in network["devices"]]
    if not devices:
        return ""
    return f" Seconds are those of {listed(devices)}, and longer where other runs went on beside."


def _size(network: Mapping[str, Any]) -> dict[str, str]:
    return {
        "parameters": f"{network['parameters']:,}",
        "multiply-adds": f"{network['multiply_adds'] / 1e6:,.2f} M",
    }


def beside_well(table: pd.DataFrame, networks: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The table of ``networks`` with two columns more: what they reach trained well, without and with augmented tests.

    ``networks`` are those of ``describe.describe_well`` that ran; one that has no row, or not at that width, gets one.
    Without any the table stays as it is.
    """
    if not networks:
        return table
    found = {network["label"]: network for network in networks}
    rows = [dict(row) for _, row in table.iterrows()]
    for label in found:
        if label not in [row["network"] for row in rows]:
            rows.append(dict.fromkeys(table.columns, "–") | {"network": label} | _size(found[label]))
    for row in rows:
        network = found.get(row["network"], {})
        for column, key in {"trained well": "final_accuracy", "augmented tests": "tta_accuracy"}.items():
            row[column] = accuracy(network[key]) if network.get(key) else "–"
    return pd.DataFrame(rows)


def recipes(configs: Mapping[str, Sequence[Config]]) -> pd.DataFrame:
    """How each network (columns) is trained, from its configs, which differ in the seed."""
    rows: dict[str, Callable[[Config], str]] = {
        "optimizer": lambda c: OPTIMIZERS[c.optimizer] + (", Nesterov" if c.nesterov or c.optimizer == "muon" else ""),
        "momentum": lambda c: f"{c.momentum:g}",
        "learning rate": lambda c: f"{c.lr:g}",
        "schedule": lambda c: SCHEDULES[c.schedule],
        "epochs": lambda c: f"{c.epochs}",
        "batch size": lambda c: f"{c.batch_size:,}",
        "weight decay": lambda c: f"{c.weight_decay:g}",
        "label smoothing": lambda c: f"{c.label_smoothing:g}",
        "crop": lambda c: (
            (f"{c.reflect_padding} px, mirrored" if c.reflect_padding else "4 px") if c.augment else "none"
        ),
        "flips": lambda c: ("alternating" if c.alternate_flips else "random") if c.augment else "none",
        "average of the weights": lambda c: f"{c.average_decay:g}" if c.average_decay else "–",
        "seeds": lambda c: "",
    }
    columns = {name: [describe(same[0]) for describe in rows.values()] for name, same in configs.items()}
    for name, same in configs.items():
        columns[name][-1] = ", ".join(str(config.seed) for config in same)
    return (
        pd.DataFrame({LABELS[name]: cells for name, cells in columns.items()}, index=[*rows])
        .rename_axis("")
        .reset_index()
    )


def well(networks: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """What section 1.4 reached, from ``describe.describe_well``; the last row is what is published of the fast one.

    The result stands beside the network, where a phone shows it.
    """
    rows = []
    for network in networks:
        ran = network["final_accuracy"] is not None
        seconds = network["seconds"]["mean"] if ran else math.nan
        rows.append(
            {
                "network": network["label"],
                "last epoch": accuracy(network["final_accuracy"]) if ran else NOT_RUN,
                "augmented tests": accuracy(network["tta_accuracy"]) if network["tta_accuracy"] else "–",
                "parameters": f"{network['parameters']:,}",
                "epochs": f"{network['epochs']}" if ran else "–",
                **_cost(network["operations"], seconds, network["share_of_peak"]),
            }
        )
    operations, seconds = PUBLISHED["operations"], PUBLISHED["seconds"]
    rows.append(
        {
            "network": f"{LABELS['fast_cnn']}, published",
            "last epoch": "–",
            "augmented tests": percent(PUBLISHED["tta_accuracy"]),
            "parameters": f"{PUBLISHED['parameters']:,}",
            "epochs": f"{PUBLISHED['epochs']}",
            **_cost(operations, seconds, operations / seconds / PUBLISHED["peak"]),
        }
    )
    return pd.DataFrame(rows)


def _cost(operations: float | None, seconds: float, share: float | None) -> dict[str, str]:
    """Of a run's training: its operations in units of 10¹⁵, its time, and its share of the device's peak."""
    if operations is None:
        return dict.fromkeys(["10¹⁵ operations", "training, s", "of peak"], "–")
    return {
        "10¹⁵ operations": f"{operations / 1e15:.2g}" if operations > 1e11 else "<0.0001",
        "training, s": f"{seconds:,.3g}" if seconds < 100 else f"{seconds:,.0f}",
        "of peak": "–" if share is None else f"{share:.0%}",
    }


def ladder(rungs: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """What closes the gap: of every rung of ``describe.describe_well`` the accuracy, and what it gains, in points."""
    rows = [
        (_rung(rung["name"]), accuracy(rung["final_accuracy"]), _gain(rung["gain"], rung["gain_ci95"]))
        for rung in rungs
    ]
    return pd.DataFrame(rows, columns=["recipe", "test accuracy", "gain, points"])


def tried(network: Mapping[str, Any]) -> pd.DataFrame:
    """What ``describe.describe_well`` has of a network on images held out, each beside what it is set against."""
    told = {"ladder": "{}", "left_out": "{}, left out", "variants": "cutout, {}"}
    rows = [
        (
            _rung(told[kind].format(rung["name"])),
            accuracy(rung["validation_accuracy"]),
            _gain(rung["held_out_gain"], rung["held_out_gain_ci95"]),
        )
        for kind in told
        for rung in network[kind]["rungs"]
    ]
    return pd.DataFrame(rows, columns=["recipe", "on images held out", "difference, points"])


def _rung(name: str) -> str:
    return name if name == WRITE_UP else f"+ {name}"


def _gain(gain: float | None, interval: Sequence[float]) -> str:
    return "–" if gain is None else points(gain, interval)


def changes(entries: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The entries of ``changes.describe``: cost, test accuracy, and the difference from the base with its interval."""
    rows = []
    for entry in entries:
        ran, difference, interval = bool(entry["runs"]), entry["difference"], entry["ci95"]
        apart = "–" if difference is None else points(difference, interval) if interval else signed(100 * difference)
        rows.append(
            {
                "change": entry["name"],
                "parameters": f"{entry['parameters']:,}" if ran else "–",
                "s / epoch": f"{entry['seconds_per_epoch']['mean']:.3g}" if ran else "–",
                "test accuracy": accuracy(entry["final_accuracy"]) if ran else NOT_RUN,
                "difference, points": apart,
            }
        )
    return pd.DataFrame(rows)


def optimizer_rates(rates: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The rates of ``changes.describe``: what every optimizer reached with each of its rates on images held out."""
    firsts = {rate["optimizer"]: rate["lr"] for rate in reversed(rates)}
    rows = [
        (rate["optimizer"], rate["lr"], "yes" if rate["lr"] == firsts[rate["optimizer"]] else "",
         accuracy(rate["validation_accuracy"]) if rate["validation_accuracy"] else NOT_RUN)
        for rate in rates
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["optimizer", "learning rate", "used", "on images held out"])


def claims(summary: Mapping[str, Any], *, own: bool = False) -> pd.DataFrame:
    """The write-up's conclusions and numbers, what was measured here, the verdict, and a link to what shows it.

    With ``own`` the claims that sections 1.4 and 1.5 add.
    """
    rows = []
    for claim in summary[_CLAIMS[own][0]]:
        shown = f"[–](#{claim['figure']})" if claim["here"] else "–"  # the report puts in the number, if it has it
        rows.append((claim["claim"], claim["reported"] or "–", claim["here"] or "–", f"**{claim['verdict']}**", shown))
    return pd.DataFrame(rows, columns=[_CLAIMS[own][1], "aim" if own else "reported", "here", "verdict", "shown in"])


def claim_tests(summary: Mapping[str, Any], *, own: bool = False) -> pd.DataFrame:
    """What decided about each claim that was tested."""
    rows = [(c["claim"], c["test"], c["verdict"]) for c in summary[_CLAIMS[own][0]] if c["test"]]
    return pd.DataFrame(rows, columns=[_CLAIMS[own][1], "decided by", "verdict"])


def over_seeds(values: Sequence[float], describe: Callable[[Sequence[float]], str]) -> str:
    """The values that are finite, described, and how many are not."""
    finite = [value for value in values if math.isfinite(value)]
    diverged = len(values) - len(finite)
    if not finite:
        return "diverged"
    return describe(finite) + (f" ({diverged} diverged)" if diverged else "")


def confused_pairs(confusions: Mapping[str, np.ndarray], classes: Sequence[str], most: int = 3) -> pd.DataFrame:
    """The pairs of classes that each network takes for each other ``most``, a row a network, from counts (10, 10)."""
    rows = []
    for name, counts in confusions.items():
        pairs = insight.confused_pairs(counts)[:most]
        cells = [f"{classes[first]} and {classes[second]}: {number:,}" for first, second, number in pairs]
        rows.append({"network": LABELS[name]} | {f"{rank}.": cell for rank, cell in enumerate(cells, 1)})
    return pd.DataFrame(rows)


def calibration(seen: Mapping[str, insight.Seen]) -> pd.DataFrame:
    """How sure each network is and how right, and what temperature scaling makes of it, a row a network."""
    rows = []
    for name, found in seen.items():
        before, after = (insight.calibration_error(way, found.right) for way in (found.confidence, found.calibrated))
        rows.append(
            {
                "network": LABELS[name],
                "accuracy": f"{found.accuracy:.1%}",
                "mean confidence": f"{found.confidence.mean():.1%}",
                "temperatures": ", ".join(f"{temperature:.2f}" for temperature in found.temperatures),
                "ECE": f"{before:.1%}",
                "ECE after scaling": f"{after:.1%}",
            }
        )
    return pd.DataFrame(rows)


def against_torch(found: Mapping[str, Any]) -> pd.DataFrame:
    """What is our own beside PyTorch's, a row a way of training, from ``experiment.compare_with_torch``."""
    names = {
        "sgd": "SGD with momentum",
        "adam": "Adam",
        "network": "network by hand, our SGD",
        "nudged": "PyTorch's SGD, begun one rounding higher",
    }
    rows = [
        {
            "beside PyTorch's": name,
            "change": f"{found[key]['change']:.2g}",
            "gradients": _small(found[key]["gradient_difference"]),
            "same path": _small(found[key]["same_path"]),
            "own path": _small(found[key]["own_path"]),
            "loss": f"{found[key]['losses'][-1]:.4f}",
            "PyTorch's": f"{found[key]['torch_losses'][-1]:.4f}",
        }
        for key, name in names.items()
    ]
    return pd.DataFrame(rows)


def _small(difference: float) -> str:
    return f"{difference:.1e}" if difference else "0"


def seeds(runs: Sequence[Run]) -> str:
    """For a figure's caption: the seeds of its runs, and how the curves of several are drawn."""
    if len(runs) == 1:
        return f"seed {_seeds(runs)}"
    return f"seeds {_seeds(runs)}: their mean, their range, and each of them faintly"


def first_seed(runs: Sequence[Run]) -> str:
    """For the caption of what is drawn of the first seed alone: ``seed 0``, ``seed 0, the first of 3``."""
    seeds = {run.config.seed: None for run in runs}
    return f"seed {next(iter(seeds))}" + (f", the first of {len(seeds)}" if len(seeds) > 1 else "")


def count_seeds(runs: Sequence[Run]) -> str:
    """Over how many seeds the runs are: ``1 seed``, ``3 seeds``."""
    return counted(len({run.config.seed for run in runs}), "seed")


def plus_minus(runs: Sequence[Run]) -> str:
    """For the end of a caption: what ± and the values in brackets of ``positive`` are; nothing with one seed."""
    return f"; {PLUS_MINUS}" if len({run.config.seed for run in runs}) > 1 else ""


def spread_of(values: Iterable[float]) -> str:
    """The mean of the values, a seed each, with half the 95 % confidence interval where there are several."""
    return spread(mean_and_interval(list(values)))


def _seeds(runs: Sequence[Run]) -> str:
    return ", ".join(str(run.config.seed) for run in runs)


def percent(fraction: float | None) -> str | None:
    """``77.06%``; None stays None."""
    return None if fraction is None else f"{fraction:.2%}"


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
