import base64
import struct
from html.parser import HTMLParser

import pandas as pd
import pytest
from matplotlib.figure import Figure

from cifarnb import display
from cifarnb.display import show_figure, show_table, show_weights


@pytest.fixture
def shown(monkeypatch):
    """What is displayed, in order: the data by its type, and its metadata."""
    outputs = []

    def record(data, metadata=None, raw=False):
        outputs.append((data if raw else {"text/markdown": data.data}, metadata))

    monkeypatch.setattr(display, "display", record)
    return outputs


def draw():
    figure = Figure(figsize=(3.04, 1.5))
    figure.subplots().plot([1, 2])
    return figure


def test_a_figure_carries_what_the_report_needs_and_its_caption_stands_below(shown):
    show_figure(draw(), "loss", "The loss.", "A falling curve")
    (data, metadata), caption = shown
    content = base64.b64decode(data["image/png"])
    width, height = struct.unpack(">II", content[16:24])
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert (width, height) == (608, 300)  # 200 pixels an inch
    assert data["text/plain"] == "A falling curve"
    assert metadata == {
        "image/png": {"width": 304, "height": 150, "alt": "A falling curve"},
        "cifarnb": {"kind": "figure", "name": "loss", "caption": "The loss."},
    }
    assert caption == ({"text/markdown": "*The loss.*"}, {"cifarnb": {"kind": "caption"}})


def test_the_same_figure_gives_the_same_bytes(shown):
    for _ in range(2):
        show_figure(draw(), "loss", "The loss.", "A falling curve")
    assert shown[0] == shown[2]
    assert b"Matplotlib" not in base64.b64decode(shown[0][0]["image/png"])


TABLE = pd.DataFrame(
    {
        "network": ["Simple CNN", "a < b & c"],
        "parameters": ["62,006", "9,750,922"],
        "accuracy": ["**64.00%**", "not run"],
        "over seeds": ["77.06 ± 1.20%", "90.29% (58)"],
        "mixed": ["3", "three"],
        "size": ["0.65 M", "–"],
    }
)


class Cells(HTMLParser):
    """The text of an HTML table's cells, row by row."""

    def __init__(self, text):
        super().__init__()
        self.rows = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.rstrip("\n")


def show(table, shown):
    show_table(table, "networks", "All networks.")
    caption, (data, metadata) = shown
    assert caption == ({"text/markdown": "*All networks.*"}, {"cifarnb": {"kind": "caption"}})
    assert metadata == {"cifarnb": {"kind": "table", "name": "networks", "caption": "All networks."}}
    return data


def test_a_table_has_all_cells_in_every_form_and_no_index(shown):
    data = show(TABLE, shown)
    plain = TABLE.replace({r"\*\*": ""}, regex=True).to_numpy().tolist()
    assert [[cell.strip() for cell in row] for row in Cells(data["text/html"]).rows] == [[*TABLE], *plain]
    header, _, *rows = data["text/markdown"].splitlines()
    assert [[cell.strip() for cell in row.strip("|").split("|")] for row in (header, *rows)] == [
        [*TABLE],
        *TABLE.to_numpy().tolist(),
    ]
    assert "<strong>64.00%</strong>" in data["text/html"]
    assert "a &lt; b &amp; c" in data["text/html"]
    assert "*" not in data["text/plain"]
    assert "64.00%" in data["text/plain"]


def test_columns_of_numbers_stand_on_the_right(shown):
    _, rule, *_ = show(TABLE.assign(accuracy=["64.00%", "not run"]), shown)["text/markdown"].splitlines()
    on_the_right = [cell.endswith(":") for cell in rule.strip("|").split("|")]
    expected = {"network": 0, "parameters": 1, "accuracy": 1, "over seeds": 1, "mixed": 0, "size": 1}
    assert dict(zip(TABLE, on_the_right, strict=True)) == expected


def test_a_table_of_numbers_is_written_as_it_is(shown):
    data = show(pd.DataFrame({"lr": ["0.0010", "1e-04"], "version": ["1.10", "2.0"]}), shown)
    assert "0.0010" in data["text/markdown"]
    assert "1e-04" in data["text/markdown"]
    assert "1.10" in data["text/markdown"]


def test_the_link_to_the_weights_leads_to_them_from_here(make_run, shown, tmp_path, monkeypatch):
    run = make_run("resnet6")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    show_weights(run)
    ((data, _),) = shown
    link = display.weights_path(run)
    assert link.startswith("../")
    assert (tmp_path / "notebooks" / link).samefile(run.path / "weights.safetensors")
    assert data["text/markdown"] == f"Weights after the last epoch: [resnet6.safetensors]({link})"
