"""What was asked for, and the answers that the report claims."""

import json
import re

import pytest
from test_page import Page

from cifarnb import runs
from cifarnb.report import build, requirements, sections
from cifarnb.report.page import Section
from cifarnb.report.requirements import GIVEN, NOT_ANSWERED, REQUIREMENTS, Requirement

BATCH_NORM = ("04_batchnorm", "05_why_batchnorm")


@pytest.fixture(scope="module")
def summary(smoke):
    return json.loads((smoke / "summary.json").read_text(encoding="utf-8"))


def asked(folder):
    """The rows of the table as the page has them, point → its last cell, and the page."""
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    rows = {}
    for row in page.find("tr"):
        cells = [cell for cell in page.elements if cell["inside"] and cell["inside"][-1] is row]
        if cells and cells[0]["text"] in [point.asked for point in REQUIREMENTS] + [*GIVEN.values()]:
            rows[cells[0]["text"]] = cells[-1]
    return rows, page


def links_in(cell, page):
    return [link["attrs"]["href"] for link in page.find("a") if cell in link["inside"]]


def test_every_answer_leads_somewhere_in_both_pages(smoke):
    rows, page = asked(smoke)
    assert len(rows) == len(REQUIREMENTS) + len(GIVEN)
    named = re.findall(r'<a id="(.+?)"></a>', (smoke / "report.md").read_text(encoding="utf-8"))
    assert len(named) > 20
    for point in REQUIREMENTS:
        links = links_in(rows[point.asked], page)
        assert len(links) == len(point.evidence) or "{best}" in "".join(point.evidence), point.asked
        assert {link.removeprefix("#") for link in links} <= {*page.ids()} & {*named}
        assert bool(links) != (rows[point.asked]["text"] == NOT_ANSWERED)


def test_a_section_that_did_not_run_is_not_claimed(smoke, summary, tmp_path):
    done = [
        Section(name, None, "not run") if name in BATCH_NORM
        else Section(name, smoke / "notebooks" / f"{name}.ipynb", "ok")
        for name in sections.names()
    ]  # fmt: skip
    build.render_report(done, summary, [runs.load(smoke / "runs" / name) for name in summary["runs"]], tmp_path)
    rows, page = asked(tmp_path)
    for point in REQUIREMENTS:
        links = links_in(rows[point.asked], page)
        assert {link.removeprefix("#") for link in links} <= {*page.ids()}
        assert not [link for link in links if any(name in link for name in BATCH_NORM)]
    for point in ("Part 2: VGG-A with and without batch norm", "Gradient predictiveness", "Insights: loss landscape"):
        assert rows[point]["text"] == NOT_ANSWERED
    assert "Section 1.1" in rows["The trained weights"]["text"]


def test_the_structure_is_that_of_the_network_that_does_best(make_run, make_summary):
    anchors = {"table-networks", "table-layers-resnet6", "table-layers-resnet9"}
    low, high = make_run("resnet9", accuracies=[0.4]), make_run("resnet6", accuracies=[0.6])
    found = requirements.rows(make_summary(resnet9=[low], resnet6=[high]), anchors)
    assert found[0][2] == "[–](#table-networks), [–](#table-layers-resnet6)"
    assert requirements.rows(make_summary(resnet9=[]), anchors)[0][2] == "[–](#table-networks)"
    fast = {"name": "fast_cnn", "final_accuracy": {"mean": 0.7}}
    well = make_summary(resnet6=[high]) | {"well": [fast, {"name": "resnet9", "final_accuracy": None}]}
    assert requirements.rows(well, {"table-layers-fast_cnn"})[0][2] == "[–](#table-layers-fast_cnn)"


def test_nothing_is_claimed_without_evidence(make_summary, monkeypatch):
    points = (Requirement("a", "1 %", ("fig-a", "fig-b")), Requirement("b", "", ("fig-c",)), Requirement("c", "", ()))
    monkeypatch.setattr(requirements, "REQUIREMENTS", points)
    rows = requirements.rows(make_summary() | {"hand_in": {"author": "A", "code_link": ""}}, {"fig-b"})
    assert rows == [
        ("a", "1 %", "[–](#fig-b)"),
        ("b", "", NOT_ANSWERED),
        ("c", "", NOT_ANSWERED),
        ("The author", "", "under the title"),
        ("A link to the code", "", "not stated"),
    ]
