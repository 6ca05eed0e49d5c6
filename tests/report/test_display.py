import base64
import io
import struct

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from cifarnb.report import display
from cifarnb.report.style import styled


@pytest.fixture
def shown(monkeypatch):
    """What is displayed, as a list of (data, metadata); captions come as Markdown objects."""
    outputs = []
    monkeypatch.setattr(display, "display", lambda data, metadata=None, raw=False: outputs.append((data, metadata)))
    return outputs


def test_a_figure_carries_size_alt_text_name_and_caption(shown):
    figure = Figure(figsize=(3, 2))
    figure.subplots().plot([1, 2])
    display.show_figure(figure, "line", "A *line*.", "A line going up.")
    (data, metadata), (caption, about) = shown
    width, height = struct.unpack(">II", base64.b64decode(data["image/png"])[16:24])
    assert (width, height) == (720, 480)  # 2.4 times the size it is shown at: 240 pixels an inch
    assert metadata["image/png"] == {"width": 300, "height": 200, "alt": "A line going up."}
    assert metadata["cifarnb"] == {"kind": "figure", "name": "line", "caption": "A *line*."}
    assert "A *line*." in caption.data
    assert about == {"cifarnb": {"kind": "caption"}}


def test_the_same_figure_gives_the_same_bytes(shown):
    for _ in range(2):
        figure = Figure(figsize=(2, 2))
        figure.subplots().plot([1, 3, 2])
        display.show_figure(figure, "f", "c", "a")
    assert shown[0][0] == shown[2][0]


def drawn(draw):
    """A figure's picture as the report has it, its pixels (H, W, 3), and those that Matplotlib draws."""
    figures = Figure(figsize=(3, 2)), Figure(figsize=(3, 2))  # drawing one changes its layout
    for figure in figures:
        draw(figure)
    data, _ = display.figure_output(figures[0], "f", "c", "a")
    plain = io.BytesIO()
    with styled():
        figures[1].savefig(plain, format="png", dpi=display.DPI)
    picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    return picture, np.asarray(picture.convert("RGB"), int), np.asarray(Image.open(plain).convert("RGB"), int)


def test_curves_are_kept_in_few_colours_that_look_the_same(shown):
    picture, kept, plain = drawn(lambda figure: figure.subplots().plot([1, 3, 2]))
    assert picture.mode == "P"
    assert np.abs(kept - plain).mean() < 0.1
    assert len(picture.getcolors()) <= 256


def test_photographs_keep_every_colour(shown):
    photograph = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    picture, kept, plain = drawn(lambda figure: figure.subplots().imshow(photograph))
    assert picture.mode == "RGB"
    assert (kept == plain).all()


def test_an_empty_figure_is_white(shown):
    _, kept, _ = drawn(lambda figure: None)
    assert (kept == 255).all()


def test_a_table_comes_as_html_markdown_and_text_with_numbers_on_the_right(shown):
    table = pd.DataFrame({"name": ["a<b", "**all**"], "count": ["1,024", "12.50% (3)"], "mixed": ["7", "seven"]})
    table["small"] = ["2.3e-07", "5"]
    display.show_table(table, "counts", "Counts.")
    (_, about), (data, metadata) = shown
    assert about == {"cifarnb": {"kind": "caption"}}
    assert metadata["cifarnb"] == {"kind": "table", "name": "counts", "caption": "Counts."}
    assert "a&lt;b" in data["text/html"]
    assert "<strong>all</strong>" in data["text/html"]
    assert data["text/html"].count("text-align: right") == 6  # header and two cells of both columns of numbers
    assert "| **all**" in data["text/markdown"]
    assert "**" not in data["text/plain"]
    assert "0" not in data["text/plain"].split()  # no index


def test_weights_are_named_by_run(shown, make_run):
    runs = [make_run(), make_run("resnet6")]
    display.show_weights(*runs)
    display.show_weights()
    ((told, _),) = shown
    assert told.data.endswith(": " + ", ".join(f"`{run.name}/weights.safetensors`" for run in runs))


def test_result_and_curves_of_a_network(shown, make_run):
    runs = [make_run("resnet6", accuracies=[0.5, 0.4]), make_run("resnet6", accuracies=[0.5, 0.4], seed=1)]
    display.show_result(runs)
    display.show_curves(runs)
    about = [metadata["cifarnb"] for _, metadata in shown if metadata and "name" in metadata["cifarnb"]]
    assert [output["name"] for output in about] == ["result-resnet6", "loss-resnet6", "accuracy-resnet6"]
    result, loss, _ = (output["caption"] for output in about)
    assert result.startswith("ResNet, 6 blocks: configuration and result, as the write-up reports them")
    assert loss.startswith("ResNet, 6 blocks: loss per epoch over 2 epochs; seeds 0, 1:")
    alts = [metadata["image/png"]["alt"] for _, metadata in shown if metadata and "image/png" in metadata]
    assert alts == [
        "Training loss falls from 1.25 to 1.00; test loss ends at 1.50.",
        "Test accuracy is 50.00 ± 0.00% at its best and 40.00 ± 0.00% after the last epoch.",
    ]
    assert [data.data for data, metadata in shown if metadata is None] == [
        f"Weights after the last epoch: `{runs[0].name}/weights.safetensors`"
    ]


def test_a_network_that_the_write_up_has_no_number_of_is_shown_as_such(shown, make_run):
    display.show_result([make_run("vgg_a")])
    assert "shows curves, no number" in shown[0][0].data


def test_a_narrow_network_is_called_so(shown, make_run):
    display.show_result([make_run("vgg_a", width=0.25)])
    assert shown[0][0].data.startswith("*VGG-A, ¼ as wide: configuration and result")
