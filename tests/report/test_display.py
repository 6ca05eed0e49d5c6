import base64
import struct

import pandas as pd
import pytest
from matplotlib.figure import Figure

from cifarnb.report import display


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
    assert (width, height) == (600, 400)  # twice the size it is shown at
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


def test_a_table_comes_as_html_markdown_and_text_with_numbers_on_the_right(shown):
    table = pd.DataFrame({"name": ["a<b", "**all**"], "count": ["1,024", "12.50% (3)"], "mixed": ["7", "seven"]})
    display.show_table(table, "counts", "Counts.")
    (_, about), (data, metadata) = shown
    assert about == {"cifarnb": {"kind": "caption"}}
    assert metadata["cifarnb"] == {"kind": "table", "name": "counts", "caption": "Counts."}
    assert "a&lt;b" in data["text/html"]
    assert "<strong>all</strong>" in data["text/html"]
    assert data["text/html"].count("text-align: right") == 3  # the header and two cells of the numbers
    assert "| **all**" in data["text/markdown"]
    assert "**" not in data["text/plain"]
    assert "0" not in data["text/plain"].split()  # no index


def test_weights_are_named_by_run(shown, make_run):
    run = make_run()
    display.show_weights(run)
    assert f"`{run.name}/weights.safetensors`" in shown[0][0].data
