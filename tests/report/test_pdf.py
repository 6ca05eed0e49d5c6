"""The page on paper."""

import html
import os
import re
import shutil
import subprocess

import pytest
from test_page import Page

from cifarnb.report import pdf


def test_links_to_files_beside_the_page_become_their_text_and_address():
    page = (
        '<a href="weights/a.safetensors">a <b>file</b></a>, <a href="#fig-x">Figure 1</a>, '
        '<a href="https://example.org/a">there</a>, <a href="mailto:a@example.org">write</a>, <a id="x"></a>'
    )
    kept = page.removeprefix('<a href="weights/a.safetensors">a <b>file</b></a>')
    assert pdf.without_relative_links(page) == "a <b>file</b> (weights/a.safetensors)" + kept


@pytest.fixture
def browser(tmp_path, monkeypatch):
    """A function that puts a Chromium on the PATH that does what a shell script says; none without one."""

    def make(script=None, name="chromium-browser"):
        folder = tmp_path / "bin"
        folder.mkdir()
        if script:
            (folder / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        monkeypatch.setattr(pdf, "BROWSERS", [name for name in pdf.BROWSERS if "/" not in name])

    return make


PRINTS = 'for a in "$@"; do case "$a" in --print-to-pdf=*) echo "%PDF $*" > "${a#*=}";; esac; done'


def printed(tmp_path):
    page = tmp_path / "report.html"
    page.write_text('<a href="weights/a">a</a>', encoding="utf-8")
    pdf.print_page(page, tmp_path / "out.pdf")
    return (tmp_path / "out.pdf").read_text()


@pytest.mark.parametrize("name", ["chromium", "chromium-browser", "google-chrome"])
def test_the_chromium_that_is_there_prints_with_bookmarks_and_without_its_own_header(tmp_path, browser, name):
    browser(PRINTS, name)
    command = printed(tmp_path)
    assert {"--headless", "--generate-pdf-document-outline", "--no-pdf-header-footer"} <= {*command.split()}
    assert command.rstrip().endswith("/report.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "out.pdf", "report.html"]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (None, r"^Chromium is not found .*install chromium"),
        ("echo first >&2; echo 'no display' >&2; exit 3", r"cannot print it \(exit code 3; no display\)$"),
        ("exit 0", r"cannot print it \(exit code 0; \)$"),
        ("exec /bin/sleep 9", r"cannot print it \(not done after 0.5 s\)$"),
    ],
)
def test_what_keeps_a_page_from_being_printed_is_told_in_one_line(tmp_path, browser, monkeypatch, script, words):
    browser(script)
    monkeypatch.setattr(pdf, "SECONDS", 0.5 if script and "sleep" in script else 60)
    with pytest.raises(pdf.PrintError, match=words) as refused:
        printed(tmp_path)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out.pdf").exists()


# --- the smoke report, printed

POPPLER = ("pdfinfo", "pdftotext", "pdfimages", "pdftohtml")
there = all(map(shutil.which, POPPLER)) and pdf.find_browser()
in_print = pytest.mark.skipif(
    not there and "CI" not in os.environ,  # on CI what is missing is a failure
    reason="no Chromium or no Poppler on this machine: the PDF is NOT checked (apt-get install chromium poppler-utils)",
)


@pytest.fixture(scope="module")
def paper(smoke, tmp_path_factory):
    file = tmp_path_factory.mktemp("paper") / "report.pdf"
    pdf.print_page(smoke / "report.html", file)
    return file


def ask(*command):
    return subprocess.run(command, capture_output=True, check=True).stdout.decode()


@in_print
def test_the_pdf_is_tagged_with_numbered_pages_and_no_path_of_this_machine(paper, smoke):
    facts = dict(re.findall(r"^(.+?): +(.+)$", ask("pdfinfo", paper), re.MULTILINE))
    assert (facts["Tagged"], facts["Title"].partition(":")[0]) == ("yes", "CIFAR-10")
    pages = ask("pdftotext", "-raw", paper, "-").split("\f")[:-1]
    assert len(pages) == int(facts["Pages"]) > 10
    for number, page in enumerate(pages, 1):
        assert page.split("\n").count(f"{number} / {len(pages)}") == 1
    assert b"file:/" not in paper.read_bytes()
    assert str(smoke).encode() not in paper.read_bytes()
    assert "import" not in ask("pdftotext", paper, "-")  # the code


@in_print
def test_the_contents_are_bookmarks_and_links_lead_to_figures(paper, smoke):
    page = Page((smoke / "report.html").read_text(encoding="utf-8"))
    headings = [re.sub(r"\s+", "", h["text"]) for h in page.elements if re.fullmatch("h[1-4]", h["tag"])]
    outline = ask("pdftohtml", "-xml", "-i", "-stdout", paper)
    found = re.findall(r"<item page=\"\d+\">(.*?)</item>", outline)
    assert [re.sub(r"\s+", "", html.unescape(item)) for item in found] == headings
    destinations = {*re.findall(r'"(.+)"', ask("pdfinfo", "-dests", paper))}
    wanted = {href[1:] for href in page.links().values() if href.startswith(("#fig", "#table"))}
    assert len(wanted) > 12
    assert wanted <= destinations


@in_print
def test_no_figure_and_no_row_of_a_table_is_cut_in_two(paper, smoke):
    page = Page((smoke / "report.html").read_text(encoding="utf-8"))
    listed = [line.split() for line in ask("pdfimages", "-list", paper).splitlines()[2:]]
    images = [(int(row[0]), row[10]) for row in listed if row[2] == "image"]  # page, object
    pages = [re.sub(r"\s", "", text) for text in ask("pdftotext", "-raw", paper, "-").split("\f")]
    captions = [re.sub(r"\s", "", c["text"]) for c in page.find("figcaption") if c["text"].startswith("Figure")]
    assert len(captions) == len({number for _, number in images}) > 12
    for caption, (number, _) in zip(captions, images, strict=True):
        assert caption in pages[number - 1]
    rows = [row for row in page.find("tr") if row["inside"][-1]["tag"] == "tbody"]
    assert len(rows) > 80
    for row in rows:
        cells = [cell for cell in page.elements if cell["inside"] and cell["inside"][-1] is row]
        texts = [re.sub(r"\s", "", cell["text"]) for cell in cells]
        assert any(all(text in page for text in texts) for page in pages), texts
