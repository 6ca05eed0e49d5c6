"""Show figures and tables in a notebook, with the caption, alt text and name that the report needs."""

import base64
import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Markdown, display
from matplotlib.figure import Figure
from PIL import Image
from tabulate import tabulate

from cifarnb.models import LABELS, label
from cifarnb.report import figures, tables
from cifarnb.report.claims import REPORTED
from cifarnb.report.significance import accuracy, counted, mean_and_interval, nats
from cifarnb.report.style import styled
from cifarnb.runs import Run

_BOLD = re.compile(r"\*\*(.+?)\*\*")
_LINK = re.compile(r"\[([^\[\]]*)\]\((#[^()\s]+)\)")
SHOWN = 100  # pixels an inch, at which a figure is shown
DPI = 240  # for print, and for sharp screens; with 300 the full page has more than 6 MB
# Levels of 255, the mean over what is not white. 256 colours are off by less than 0.1 in the curves here, where they
# save two thirds of the bytes, and by more than 0.9 in photographs.
COLOUR_ERROR = 0.5


def show_figure(figure: Figure, name: str, caption: str, alt: str) -> None:
    """Display a figure with its caption below.

    ``name`` is what the report's links and its image file are called by, ``alt`` says to a reader who cannot see the
    figure what it shows.
    """
    data, metadata = figure_output(figure, name, caption, alt)
    display(data, metadata=metadata, raw=True)
    _show_caption(caption)


def figure_output(figure: Figure, name: str, caption: str, alt: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Data and metadata of a notebook's output, as ``show_figure`` displays them."""
    buffer = io.BytesIO()
    with styled():  # saving reads the settings as well
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    width, height = (round(inches * SHOWN) for inches in figure.get_size_inches())
    return {"image/png": base64.b64encode(_compact(buffer)).decode(), "text/plain": alt}, {
        "image/png": {"width": width, "height": height, "alt": alt},
        "cifarnb": {"kind": "figure", "name": name, "caption": caption},
    }


def _compact(png: io.BytesIO) -> bytes:
    """The same picture in fewer bytes: with a palette of 256 colours where those do."""
    picture = Image.open(png).convert("RGB")
    few = picture.quantize(256, dither=Image.Dither.NONE)
    # A sixteenth of the pixels tells.
    pixels, kept = (np.asarray(p.convert("RGB"))[::4, ::4].astype(np.int16) for p in (picture, few))
    off = np.abs(kept - pixels)[(pixels < 255).any(-1)]
    compact = io.BytesIO()
    if off.size == 0 or off.mean() <= COLOUR_ERROR:
        few.save(compact, "png", optimize=True)
    else:
        picture.save(compact, "png")
    return compact.getvalue()


def show_table(table: pd.DataFrame, name: str, caption: str) -> None:
    """Display a table of text cells, without its index, with its caption above; numbers stand on the right."""
    _show_caption(caption)
    data, metadata = table_output(table, name, caption)
    display(data, metadata=metadata, raw=True)


def table_output(table: pd.DataFrame, name: str, caption: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Data and metadata of a notebook's output, as ``show_table`` displays them."""
    columns = [table[column].astype(str) for column in table]
    align = ["right" if cells.map(_is_number).all() else "left" for cells in columns]

    def as_text(style: str) -> str:
        return str(tabulate(table, "keys", style, showindex=False, disable_numparse=True, colalign=align))

    page = _BOLD.sub(r"<strong>\1</strong>", _align_left(as_text("html")))
    return {
        "text/html": _LINK.sub(r'<a href="\2">\1</a>', page),
        "text/markdown": as_text("pipe"),
        "text/plain": _LINK.sub(r"\1", _BOLD.sub(r"\1", as_text("simple"))),
    }, {"cifarnb": {"kind": "table", "name": name, "caption": caption}}


def weights_file(run: Run) -> str:
    """A run's weights as a notebook names them: the file in the folder of the runs."""
    return f"{run.name}/weights.safetensors"


def show_weights(*runs: Run) -> None:
    """Display where the weights are, if there are runs; the report makes of each a link to its own copy."""
    if runs:
        display(Markdown(f"Weights after the last epoch: {', '.join(f'`{weights_file(run)}`' for run in runs)}"))


def show_result(runs: Sequence[Run]) -> None:
    """Display configuration and result of one network beside the write-up's, and where the weights are.

    ``runs`` differ in the seed.
    """
    model, width = runs[0].config.model, runs[0].config.width
    if "accuracy" in REPORTED.get(model, {}):
        told = (
            ", as the write-up reports them and as they came out here. It does not say whether its accuracy is the "
            "last or the best epoch's."
        )
    else:
        told = ". The write-up gives the learning rate and shows curves, no number." if model in REPORTED else "."
    table = tables.config_and_result(runs)
    show_table(table, f"result-{model}", f"{label(model, width)}: configuration and result{told}")
    show_weights(runs[0])


def show_curves(runs: Sequence[Run]) -> None:
    """Display loss and accuracy over the epochs of one network's runs, which differ in the seed."""
    model, history = runs[0].config.model, runs[0].history
    show_figure(
        figures.loss_curves(runs),
        f"loss-{model}",
        f"{LABELS[model]}: loss per epoch over {counted(len(history), 'epoch')}; {tables.seeds(runs)}.",
        f"Training loss falls from {nats(history.train_loss.iloc[0])} to {nats(history.train_loss.iloc[-1])}; "
        f"test loss ends at {nats(history.test_loss.iloc[-1])}.",
    )
    best, final = (
        accuracy(mean_and_interval(values))
        for values in ([run.best_accuracy for run in runs], [run.final_accuracy for run in runs])
    )
    show_figure(
        figures.accuracy_curves(runs),
        f"accuracy-{model}",
        f"{LABELS[model]}: accuracy per epoch. The star marks the first seed's best epoch, which is chosen on the test "
        "images, the square its last, which is the result.",
        f"Test accuracy is {best} at its best and {final} after the last epoch.",
    )


def _align_left(table: str) -> str:
    """Say of the cells that are not on the right that they are on the left: JupyterLab's default is right."""
    return re.sub(r"<(t[hd])>", r'<\1 style="text-align: left;">', table)


def _show_caption(caption: str) -> None:
    # The report has the caption from the figure's or table's own metadata; this one is for JupyterLab.
    display(Markdown(f"*{caption}*"), metadata={"cifarnb": {"kind": "caption"}})


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"[-−+]?\d[\d,.]*(e[-+]\d+)?( ?[%M])?( [±(].*)?|–|not run|diverged|", cell) is not None
