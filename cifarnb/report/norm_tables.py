"""The tables of section 2, about batch norm: records in, a DataFrame of text cells out, as in ``tables``."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from cifarnb.models import LABELS
from cifarnb.report.claims import NOT_COMPARABLE
from cifarnb.report.describe import WINDOW
from cifarnb.report.significance import accuracy, counted, mean_and_interval, nats, positive
from cifarnb.report.tables import NOT_RUN, count_seeds, first_seed, over_seeds
from cifarnb.report.walks import MEASURES, compared_from, medians_over_steps
from cifarnb.runs import Run


def landscape(
    described: Mapping[str, Mapping[str, Any]], alone: Mapping[str, Mapping[str, Any]] | None = None
) -> pd.DataFrame:
    """The band of each network (columns) by ``describe.describe_landscape``: its width, in nats (rows).

    With ``alone``, the networks by ``describe.describe_network``, there is a row of how unsteady the loss is in a run.
    """
    rows = {
        "width of the band, median over the steps": "median_band_width",
        "width of the band, median over the second half": "late_band_width",
        "width of the band, maximum": "maximum_band_width",
    }
    columns = {LABELS[name]: [positive(found[key]) for key in rows.values()] for name, found in described.items()}
    index = [*rows]
    if alone:
        first = next(iter(alone.values()))
        seeds = counted(len(first["loss_fluctuation"]["values"]), "seed")
        index.append(f"deviation of the loss within {WINDOW} steps of a run (learning rate {first['lr']:g}, {seeds})")
        for name in described:
            columns[LABELS[name]].append(positive(alone[name]["loss_fluctuation"]))
    return pd.DataFrame(columns, index=index).rename_axis("nats").reset_index()


def not_ahead(described: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The learning rates at which VGG-A with batch norm tests no better than without, rising, with both accuracies.

    ``described`` holds the landscapes of ``vgg_a`` and ``vgg_a_bn``; accuracies are the means over the seeds.
    """
    normed, plain = (described[name]["final_accuracy"] for name in ("vgg_a_bn", "vgg_a"))
    ends = {rate: [mean_and_interval(side[rate]) for side in (normed, plain)] for rate in normed if rate in plain}
    return [
        f"{rate} ({accuracy(one)} against {accuracy(other)})"
        for rate, (one, other) in sorted(ends.items(), key=lambda item: float(item[0]))
        if one["mean"] <= other["mean"]
    ]


def rates(runs: Mapping[str, Sequence[Run]]) -> pd.DataFrame:
    """Test accuracy after the last epoch for every learning rate (rows, rising) and network (columns).

    A cell is the mean over the seeds that did not diverge, with half the 95 % interval, or the seeds' values, where
    there are several.
    """
    columns = {}
    for name, same in runs.items():
        ended = pd.Series(
            [math.nan if run.diverged else run.final_accuracy for run in same], index=[run.config.lr for run in same]
        )
        columns[LABELS[name]] = ended.groupby(level=0).agg(lambda values: over_seeds(list(values), _accuracy_of))
    table = pd.DataFrame(columns).sort_index().fillna(NOT_RUN)
    table.index = [f"{lr:g}" for lr in table.index]
    return table.rename_axis("learning rate").reset_index()


def probes(runs: Mapping[str, Mapping[str, Sequence[Run]]]) -> pd.DataFrame:
    """What walks measured, a row a kind of walk and measure; kind of walk → network → runs, which differ in the seed.

    A cell is the mean over the seeds of the median over the steps at which all networks learn, with half the 95 %
    confidence interval, or their values, where there are several.  Seeds are left out as ``walks.compared_from`` says.
    """
    rows = []
    for walk, networks in runs.items():
        since = compared_from(run for same in networks.values() for run in same)
        for measure in MEASURES:
            cells = {LABELS[name]: _over_compared(same, since, measure) for name, same in networks.items()}
            rows.append({"walk": walk, "median over the steps": measure} | cells)
    return pd.DataFrame(rows)


def learning(runs: Mapping[str, Mapping[str, Sequence[Run]]]) -> pd.DataFrame:
    """From which step on each network learns, seed by seed, and how many walks are compared, a row a kind of walk.

    Kind of walk → network → runs, which differ in the seed; those of all networks have the same seeds.  In brackets is
    the mean training loss of the last ten steps.
    """
    rows = []
    for walk, networks in runs.items():
        since = compared_from(run for same in networks.values() for run in same)
        row = {"walk": walk}
        for name, same in networks.items():
            row[LABELS[name]] = ", ".join(
                f"{'never' if run.learns_from is None else run.learns_from} ({nats(run.losses[-10:].mean())})"
                for run in same
            )
        walks = [(run.probes["step"], since[run.config.seed]) for run in same if run.probes is not None]
        counts = ", ".join("0" if first is None else str((steps >= first).sum()) for steps, first in walks)
        rows.append(row | {"walks compared": f"{counts} of {len(walks[0][0])}"})
    return pd.DataFrame(rows)


def _over_compared(runs: Sequence[Run], since: Mapping[int, int | None], measure: str) -> str:
    medians = medians_over_steps(runs, since, measure)
    return over_seeds(medians, _positive_of) if medians else NOT_COMPARABLE


def _positive_of(values: Iterable[float]) -> str:
    return positive(mean_and_interval(list(values)))


def _accuracy_of(accuracies: Sequence[float]) -> str:
    return positive(mean_and_interval(accuracies), accuracy)


def beta_lines(runs: Sequence[Run]) -> str:
    """For the caption of ``norm_figures.probes``: what its lines of β are."""
    if len({run.config.seed for run in runs}) == 1:
        return f"β of {first_seed(runs)}"
    return f"of β the thick line is the median over the {count_seeds(runs)}, the thin ones are the seeds"
