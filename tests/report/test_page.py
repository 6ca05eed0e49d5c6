"""The report: every check reads the files that ``render`` wrote."""

import base64
import re
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from fontTools.ttLib import TTFont
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from cifarnb.report.page import HAN, TEMPLATES, Section, render

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """The elements of a page in order, each with its tag, attributes, enclosing elements and own text."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[dict] = []
        self.open: list[dict] = []
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {[element['tag'] for element in self.open]}"

    def handle_starttag(self, tag: str, attrs: list) -> None:
        element = {"tag": tag, "attrs": dict(attrs), "inside": list(self.open), "text": ""}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element["text"] += data

    def find(self, tag: str = "", css_class: str = "", within: str = "") -> list[dict]:
        return [
            element
            for element in self.elements
            if (not tag or element["tag"] == tag)
            and (not css_class or css_class in element["attrs"].get("class", "").split())
            and (not within or any(outer["tag"] == within for outer in element["inside"]))
        ]

    def ids(self) -> list[str]:
        return [element["attrs"]["id"] for element in self.elements if "id" in element["attrs"]]

    def links(self) -> dict[str, str]:
        """Text → address, the contents lists left aside."""
        return {
            " ".join(link["text"].split()): link["attrs"]["href"]
            for link in self.find("a")
            if not any(outer["tag"] == "nav" for outer in link["inside"])
        }


def png(width: int = 8, height: int = 4) -> str:
    """Return a white PNG in base64, as notebooks store it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress((b"\0" + b"\xff" * width) * height)
    image = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return base64.encodebytes(image).decode()


def figure(name: str, caption: str = "A caption.", alt: str = "Two curves") -> nbformat.NotebookNode:
    metadata = {
        "image/png": {"width": 4, "height": 2, "alt": alt},
        "cifarnb": {"kind": "figure", "name": name, "caption": caption},
    }
    return new_output("display_data", {"image/png": png(), "text/plain": "<Figure>"}, metadata=metadata)


def table(name: str, caption: str = "A caption.") -> nbformat.NotebookNode:
    data = {
        "text/html": '<table border="1" class="dataframe"><tr><td>net</td><td class="num">1.5</td></tr></table>',
        "text/markdown": "| net | loss |\n|:--|--:|\n| net | 1.5 |",
        "text/plain": "net 1.5",
    }
    return new_output("display_data", data, metadata={"cifarnb": {"kind": "table", "name": name, "caption": caption}})


def text_output(text: str, mime: str = "text/plain", **metadata: object) -> nbformat.NotebookNode:
    return new_output("display_data", {mime: text}, metadata=metadata)


def stream(text: str, name: str = "stdout") -> nbformat.NotebookNode:
    return new_output("stream", name=name, text=text)


def code(*outputs: nbformat.NotebookNode, source: str = "x = 1", tags: tuple[str, ...] = ()) -> nbformat.NotebookNode:
    return new_code_cell(source, outputs=list(outputs), execution_count=1, metadata={"tags": list(tags)})


class Report:
    """Renders notebooks made of cells and holds what came out."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.out = folder / "out"

    def section(self, name: str, *cells: nbformat.NotebookNode, status: str = "ok", **rest: object) -> Section:
        path = self.folder / f"{name}.ipynb"
        nbformat.write(new_notebook(cells=list(cells)), path)
        return Section(name, path, status, **rest)

    def render(self, *sections: Section, **texts: object) -> Page:
        texts = {"title": "A title", "banner": [], "front": "# Front", "provenance": "Made here."} | texts
        paths = render(sections, self.out, **texts)
        assert paths == (self.out / "report.html", self.out / "report.md")
        self.html, self.markdown = (path.read_text(encoding="utf-8") for path in paths)
        return Page(self.html)

    def cells(self, *cells: nbformat.NotebookNode, **texts: object) -> Page:
        return self.render(self.section("01_one", *cells), **texts)


@pytest.fixture
def report(tmp_path: Path) -> Report:
    return Report(tmp_path)


# --- figures and tables


def test_figures_and_tables_are_numbered_over_all_sections(report: Report) -> None:
    page = report.render(
        report.section("01_one", code(figure("a", "First *one*."), table("t"))),
        report.section("02_two", code(figure("b", "Second one."), table("u", "Second table."))),
    )
    captions = [caption["text"] for caption in page.find("figcaption")]
    assert captions == [
        "Figure 1. First one.",
        "Table 1. A caption.",
        "Figure 2. Second one.",
        "Table 2. Second table.",
    ]
    assert [element["attrs"]["id"] for element in page.find("figure")] == ["fig-a", "table-t", "fig-b", "table-u"]
    assert page.find("em", within="figcaption")[0]["text"] == "one"
    for caption in ("**Figure 1.** First *one*.", "**Figure 2.** Second one.", "**Table 2.** Second table."):
        assert caption in report.markdown


def test_each_image_has_its_size_and_alternative_text(report: Report) -> None:
    bare = new_output("display_data", {"image/png": png(6, 10), "text/plain": "<Figure size 6x10>"})
    page = report.cells(code(figure("a", alt='5 > 4 & "so on"'), bare))
    stated, read = (image["attrs"] for image in page.find("img"))
    assert (stated["width"], stated["height"], stated["alt"]) == ("4", "2", '5 > 4 & "so on"')
    assert (read["width"], read["height"], read["alt"]) == ("6", "10", "<Figure size 6x10>")
    assert base64.b64decode(stated["src"].removeprefix("data:image/png;base64,")) == base64.b64decode(png())


def test_markdown_figures_are_on_disk(report: Report) -> None:
    report.cells(code(figure("a", alt="Curves [of loss]"), figure("b")))
    images = re.findall(r"!\[(.*?)\]\((.*?)\)", report.markdown)
    assert images == [("Curves (of loss)", "figures/01-a.png"), ("Two curves", "figures/02-b.png")]
    for _, path in images:
        assert (report.out / path).read_bytes() == base64.b64decode(png())


def test_nothing_but_the_report_is_left_in_the_folder(report: Report) -> None:
    report.cells(code(figure("a")))
    names = sorted(str(path.relative_to(report.out)) for path in report.out.rglob("*"))
    assert names == ["figures", "figures/01-a.png", "report.html", "report.md"]


def test_a_rendering_that_fails_leaves_the_old_report_whole(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    report.cells(title="Old")

    def fail(self: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        report.cells(title="New")
    assert sorted(path.name for path in report.out.iterdir()) == ["report.html", "report.md"]
    assert "Old" in (report.out / "report.html").read_text(encoding="utf-8")


def test_tables_scroll_in_a_box_of_their_own(report: Report) -> None:
    page = report.cells(code(table("t")), new_markdown_cell("| a | b |\n|--:|:--|\n| 1 | x |"))
    assert len(page.find("table")) == 2
    for element in page.find("table"):
        assert element["inside"][-1]["attrs"]["class"] == "table-scroll"
        assert "border" not in element["attrs"]
    # Right-aligned columns of a Markdown table are numbers as well.
    assert [cell["text"] for cell in page.find(css_class="num")] == ["1.5", "a", "1"]
    assert "| net | 1.5 |" in report.markdown
    assert "dataframe" not in report.markdown


@pytest.mark.parametrize("style", ["text-align:right", "text-align: right;"])  # mistune's and tabulate's spelling
def test_cells_aligned_to_the_right_are_numbers(report: Report, style: str) -> None:
    cells = f'<tr style="{style}"><td style="{style}">1</td><td style="text-align: left;">x</td></tr>'
    page = report.cells(code(text_output(f"<table>{cells}</table>", "text/html")))
    assert [element["attrs"] for element in page.find(within="table")] == [{}, {"class": "num"}, {}]


def labels(page: Page) -> list[list[str | None]]:
    """Of every row of the body the names that its cells bear."""
    rows = [row for row in page.find("tr") if row["inside"][-1]["tag"] == "tbody"]
    return [
        [cell["attrs"].get("data-label") for cell in page.elements if cell["inside"] and cell["inside"][-1] is row]
        for row in rows
    ]


def test_cells_of_a_table_that_is_wide_for_a_phone_say_which_column_they_are_in(report: Report) -> None:
    wide = "| claim | `a` < b | | verdict |\n|:--|--:|--|--|\n| it holds | 1 | x | **yes** |\n| or not | 2 |  | no |"
    assert labels(report.cells(new_markdown_cell(wide))) == [[None, "a < b", "", "verdict"]] * 2
    narrow = "| claim | here | verdict |\n|--|--|--|\n| it holds | 1 | yes |"
    assert labels(report.cells(new_markdown_cell(narrow))) == [[None] * 3]


def test_cells_under_no_one_name_get_none(report: Report) -> None:
    head = "<thead><tr><th colspan='2'>a</th><th>b</th><th>c</th><th>d</th></tr></thead>"
    body = "<tbody><tr><td>1</td><td>2</td><td>3</td><td>4</td><td>5</td></tr></tbody>"
    shown = text_output(f"<table>{head}{body}</table>", "text/html")
    assert labels(report.cells(code(shown))) == [[None] * 5]


def test_a_data_frame_shown_as_it_is_loses_its_style(report: Report) -> None:
    shown = {"text/html": "<div><style scoped>td {color: red}</style><table></table></div>", "text/plain": "frame"}
    page = report.cells(code(new_output("execute_result", shown, execution_count=1)))
    assert len(page.find("table")) == 1
    assert "color: red" not in report.html
    assert "```text\nframe\n```" in report.markdown


# --- pictures that are no figures of ours

SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="8" height="4"><script>alert(1)</script></svg>'
JPEG = base64.b64encode(b"\xff\xd8 a photograph").decode()


def data_address(mime: str, content: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def pasted(source: str, **pictures: str) -> nbformat.NotebookNode:
    cell = new_markdown_cell(source)
    cell["attachments"] = {name.replace("_", "."): {"image/png": data} for name, data in pictures.items()}
    return cell


def test_pasted_pictures_are_part_of_both_pages(report: Report) -> None:
    page = report.render(
        report.section(
            "01_one",
            pasted("Text ![image.png](attachment:image.png) text.", image_png=png(6, 2)),
            pasted('<img src="attachment:image.png" width="50">', image_png=png(5, 2)),
            pasted("![a b](attachment:a%20b.png 'title')", **{"a b_png": png(4, 2)}),
        ),
        report.section("02_two", pasted("![image.png](attachment:image.png)", image_png=png(3, 2))),
    )
    wanted = [base64.b64decode(png(width, 2)) for width in (6, 5, 4, 3)]
    assert [image["attrs"]["src"] for image in page.find("img")] == [data_address("image/png", it) for it in wanted]
    assert [image["attrs"].get("width") for image in page.find("img")] == ["6", "50", "4", "3"]
    paths = re.findall(r"figures/[\w-]+\.png", report.markdown)
    assert paths == [f"figures/{name}.png" for name in ("01_one-image", "01_one-image-2", "01_one-a-b", "02_two-image")]
    assert [(report.out / path).read_bytes() for path in paths] == wanted
    assert "attachment:" not in report.html + report.markdown


def test_a_picture_beside_the_notebook_is_part_of_both_pages(report: Report, tmp_path: Path) -> None:
    (tmp_path / "source" / "pictures").mkdir(parents=True)
    (tmp_path / "source" / "pictures" / "net.svg").write_text(SVG, encoding="utf-8")
    section = report.section("01_one", new_markdown_cell("![a net](pictures/net.svg) ![none](pictures/none.png)"))
    notebook = nbformat.read(section.notebook, as_version=4)
    notebook.metadata["papermill"] = {"input_path": str(tmp_path / "source" / "01_one.ipynb")}
    nbformat.write(notebook, section.notebook)
    page = report.render(section)
    (image,) = page.find("img")
    assert (image["attrs"]["src"], image["attrs"]["alt"]) == (data_address("image/svg+xml", SVG.encode()), "a net")
    assert (report.out / "figures" / "01_one-net.svg").read_text(encoding="utf-8") == SVG
    assert "![a net](figures/01_one-net.svg) ![none](pictures/none.png)" in report.markdown
    assert page.find(css_class="left-out")[0]["text"].endswith("anywhere: pictures/none.png")


@pytest.mark.parametrize(
    "source",
    [
        "![it](https://example.org/a.png?b=1&c=2)",
        '<img alt="a > b" src="https://example.org/a.png?b=1&amp;c=2" width=3>',
        'before <IMG\nSRC = "https://example.org/a.png?b=1&c=2"> after',
        "<div>\n<img src='https://example.org/a.png?b=1&c=2'/>\n</div>",
    ],
)
def test_in_place_of_a_picture_from_elsewhere_stands_that_it_was_left_out(report: Report, source: str) -> None:
    page = report.cells(new_markdown_cell(source))
    assert page.find("img") == []
    assert [element["text"] for element in page.find(css_class="left-out")] == [
        "A picture is left out here, because this page loads nothing from anywhere: https://example.org/a.png?b=1&c=2"
    ]


def test_every_kind_of_picture_and_formula_that_a_cell_shows_is_shown(report: Report) -> None:
    def shown(mime: str, data: str, kind: str = "SVG") -> nbformat.NotebookNode:
        return new_output("display_data", {mime: data, "text/plain": f"<IPython.core.display.{kind} object>"})

    url = shown("text/html", '<img src="https://example.org/a.png"/>', "Image")
    words = shown("text/html", "<b>bold</b> &amp; <script>no()</script>plain", "HTML")
    page = report.cells(
        code(shown("image/svg+xml", SVG), shown("image/jpeg", JPEG, "Image"), shown("image/gif", JPEG, "Image")),
        code(shown("text/latex", "$\\displaystyle x^2$", "Math"), url, words),
    )
    svg, jpeg, gif = page.find("img")
    assert svg["attrs"]["src"] == data_address("image/svg+xml", SVG.encode())
    assert jpeg["attrs"]["src"] == f"data:image/jpeg;base64,{JPEG}"
    assert gif["attrs"]["src"] == f"data:image/gif;base64,{JPEG}"
    assert svg["attrs"]["alt"] == "Figure without a description"
    assert [figure["text"].strip()[:9] for figure in page.find("figure")] == ["Figure 1.", "Figure 2.", "Figure 3."]
    for path, content in {"01-1.svg": SVG.encode(), "02-2.jpg": base64.b64decode(JPEG)}.items():
        assert (report.out / "figures" / path).read_bytes() == content
        assert f"](figures/{path})" in report.markdown
    assert len(page.find("msup")) == 1
    assert "$\\displaystyle x^2$" in report.markdown
    assert [element["text"] for element in page.find("pre", "output")] == [
        "A picture is left out here, because this page loads nothing from anywhere: https://example.org/a.png",
        "bold & plain",
    ]
    assert "IPython.core.display" not in report.html + report.markdown


# --- references, links, mathematics


def test_references_get_the_number_of_their_figure_or_table(report: Report) -> None:
    page = report.render(
        report.section(
            "01_one",
            new_markdown_cell("Cell: [curves](#fig-b). Code: `[a](#fig-a)`.\n\n```\n[a](#fig-a)\n```"),
            code(figure("a", "See [it](#table-t)."), text_output("Output: [first](#fig-a).", "text/markdown")),
        ),
        report.section("02_two", code(figure("b"), table("t"))),
        front="Front: [numbers](#table-t), [not there](#fig-nowhere).",
        banner=["Banner: [first](#fig-a)."],
    )
    expected = {"Figure 1": "#fig-a", "Figure 2": "#fig-b", "Table 1": "#table-t"}
    assert {text: href for text, href in page.links().items() if href.startswith(("#fig-", "#table-"))} == expected
    assert {href.removeprefix("#") for href in expected.values()} <= set(page.ids())
    assert [code["text"].strip() for code in page.find("code")] == ["[a](#fig-a)", "[a](#fig-a)"]
    assert "Front: Table 1, not there." in page.find("main")[0]["text"]
    for line in (
        "Front: [Table 1](#table-t), not there.",
        "Cell: [Figure 2](#fig-b). Code: `[a](#fig-a)`.",
        "Output: [Figure 1](#fig-a).",
        "Banner: [Figure 1](#fig-a).",
        "**Figure 1.** See [Table 1](#table-t).",
    ):
        assert line in report.markdown
    assert '<a id="fig-b"></a>' in report.markdown
    assert '<a id="table-t"></a>' in report.markdown


def test_a_reference_to_a_section_that_ran_gets_its_number(report: Report) -> None:
    ran = report.section("01_one", new_markdown_cell("# 1. Part\n\n## 1.2 One (一)\n\nSee [here](#section-02_two)."))
    failed = report.section("02_two", new_markdown_cell("# 2. Two"), status="failed")
    page = report.render(ran, failed, front="[a](#section-01_one), [b](#section-02_two)")
    assert page.links() == {"Skip to content": "#content", "Section 1.2": "#section-01_one"}
    assert "section-01_one" in page.ids()
    assert "section-02_two" not in report.html
    assert "[Section 1.2](#section-01_one), b" in report.markdown
    assert '<a id="section-01_one"></a>' in report.markdown


def test_the_front_page_may_be_made_of_the_anchors_that_are_there(report: Report) -> None:
    section = report.section("01_one", new_markdown_cell("# 1. One"), code(figure("f"), table("t")))
    report.render(section, front=lambda anchors: " ".join(sorted(anchors)))
    assert "fig-f section-01_one table-t" in report.markdown


def test_the_byline_stands_under_the_title_and_only_if_there_is_one(report: Report) -> None:
    page = report.render(byline="**Author:** A\\_B")
    (line,) = page.find("p", "byline")
    assert line["text"] == "Author: A_B"
    assert report.markdown.startswith("# A title\n\n**Author:** A\\_B\n")
    assert report.render().find("p", "byline") == []


def test_a_file_named_as_code_becomes_a_link(report: Report) -> None:
    page = report.cells(
        new_markdown_cell("Weights: `../runs/a/weights.safetensors`, not `b`."),
        files={"../runs/a/weights.safetensors": "weights/a.safetensors"},
    )
    assert page.links()["a.safetensors"] == "weights/a.safetensors"
    assert [code["text"] for code in page.find("code")] == ["b"]
    assert "Weights: [a.safetensors](weights/a.safetensors), not `b`." in report.markdown


def test_relative_links_survive(report: Report) -> None:
    page = report.cells(new_markdown_cell("[weights](weights/a.safetensors)"), front="[more](weights/b.safetensors)")
    links = page.links()
    assert (links["weights"], links["more"]) == ("weights/a.safetensors", "weights/b.safetensors")
    for link in ("[weights](weights/a.safetensors)", "[more](weights/b.safetensors)"):
        assert link in report.markdown


def test_formulas_become_mathml(report: Report) -> None:
    page = report.cells(
        new_markdown_cell("Inline $a_1 < b$ and\n\n$$\\frac{1}{2}\\sum_i x_i$$\n"),
        code(figure("a", "With $x^2$."), text_output("Output $y$", "text/markdown")),
        new_markdown_cell("\\begin{align}a &= b\\end{align}"),
    )
    displays = ["inline", "block", "inline", "inline", "block"]
    assert [formula["attrs"] for formula in page.find("math")] == [{"display": display} for display in displays]
    assert len(page.find("mfrac")) == 1
    assert "$" not in " ".join(element["text"] for element in page.find("main"))
    assert "$a_1 < b$" in report.markdown
    assert "$$\\frac{1}{2}\\sum_i x_i$$" in report.markdown


@pytest.mark.parametrize(
    "text", ["From $5 to $10, or $3.", "`a$b` and `$c$`", "```\n$x$ $$y$$\n```", "`$$x$$` in a sentence", "\\$x\\$"]
)
def test_other_dollars_stay_dollars(report: Report, text: str) -> None:
    page = report.cells(new_markdown_cell(text))
    assert page.find("math") == []
    assert page.find("main")[0]["text"].count("$") == text.count("$")


@pytest.mark.parametrize("formula", ["x^", "\\unknowncommand{x}", "a & b", "\\left( x"])
def test_a_formula_beyond_latex2mathml_is_shown_as_code(report: Report, formula: str) -> None:
    page = report.cells(new_markdown_cell(f"See ${formula}$."))
    assert page.find("math") == []
    assert [element["text"] for element in page.find("code")] == [formula]


# --- headings and contents


def test_headings_are_demoted_and_all_contents_links_resolve(report: Report) -> None:
    page = report.render(
        report.section("01_one", new_markdown_cell("# 1. Train (训练)\n\n## Summary\n\n```\n# no heading\n```")),
        report.section("02_two", new_markdown_cell("## Summary\n\ntext"), new_markdown_cell("## Summary")),
        front="# At a glance",
    )
    headings = [
        (element["tag"], element["text"]) for element in page.elements if re.fullmatch("h[1-6]", element["tag"])
    ]
    assert headings == [
        ("h1", "A title"),
        ("h2", "At a glance"),
        ("h2", "1. Train (训练)"),
        ("h3", "Summary"),
        ("h3", "Summary"),
        ("h3", "Summary"),
        ("h2", "Provenance"),
    ]
    ids = page.ids()
    assert len(ids) == len(set(ids))
    # One list beside the text, one folded above it.
    targets = [link["attrs"]["href"] for link in page.find("a", within="li")]
    assert len(targets) == 12
    assert {target.removeprefix("#") for target in targets} <= set(ids)
    assert [link["text"] for link in page.find("a", within="details")][:2] == ["At a glance", "1. Train (训练)"]
    for line in ("# A title", "## 1. Train (训练)", "### Summary", "# no heading", "## Provenance"):
        assert line in report.markdown.splitlines()


@pytest.mark.parametrize(
    ("heading", "chinese"),
    [
        ("1.1 Simple CNN (简单CNN)", "(简单CNN)"),
        ("加入残差连接+batch norm层 now", "加入残差连接+batch norm层"),
        ("Data", None),
    ],
)
def test_chinese_in_headings_is_marked(report: Report, heading: str, chinese: str | None) -> None:
    page = report.cells(new_markdown_cell(f"# {heading}"))
    marked = [span["text"] for span in page.find("span", within="h2") if span["attrs"] == {"lang": "zh"}]
    assert marked == ([chinese] if chinese else [])
    assert page.find("html")[0]["attrs"]["lang"] == "en"


def test_provenance_may_bring_its_own_heading(report: Report) -> None:
    page = report.render(provenance="# Where it comes from\n\nHere.")
    assert [heading["text"] for heading in page.find("h2")] == ["Front", "Where it comes from"]


# --- code and plain outputs


def test_code_is_folded_and_coloured(report: Report) -> None:
    page = report.cells(
        code(source="lr = 1.0e-3  # the rate", tags=("parameters",)),
        code(source="lr = 2.0e-3", tags=("injected-parameters",)),
        code(source='print("```")'),
        code(source=""),
    )
    folds = page.find("details", "code")
    assert [fold["text"].split("\n")[0] for fold in folds] == ["Parameters", "Parameters of this profile", "Code"]
    assert all("open" not in fold["attrs"] for fold in folds)
    assert [span["text"] for span in page.find("span", "c1")] == ["# the rate"]
    assert folds[0]["text"].split("\n")[1] == "lr = 1.0e-3  # the rate"
    assert '````python\nprint("```")\n````' in report.markdown


def test_cells_and_outputs_that_only_jupyter_needs_are_dropped(report: Report) -> None:
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "DROPPED widget"}
    page = report.cells(
        code(source="DROPPED cell", tags=("remove-cell",)),
        code(
            text_output("DROPPED caption", "text/markdown", cifarnb={"kind": "caption"}),
            new_output("display_data", widget),
            new_output("display_data", {"application/json": {"a": "DROPPED"}}),
            new_output("display_data", {"text/html": "<script>DROPPED()</script>", "text/plain": "kept plain"}),
            stream("DROPPED stderr", "stderr"),
            stream("\n"),
            stream("kept stdout"),
        ),
    )
    assert [element["text"] for element in page.find("pre", "output")] == ["kept plain", "kept stdout"]
    for text in (report.html, report.markdown):
        assert "DROPPED" not in text
        assert "kept stdout" in text


def test_hostile_text_is_escaped(report: Report) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>&amp;"
    failure = new_output("error", ename=evil, evalue=evil, traceback=[evil])
    page = report.render(
        report.section("01_one", code(stream(evil), text_output(evil), failure, source=f"'{evil}'")),
        Section("02_two", None, "not run", evil),
        title=evil,
    )
    assert len(page.find("script")) == 1
    assert page.find("img") == []
    assert [element["text"] for element in page.find("pre", "output")] == [evil, evil]
    assert page.find("title")[0]["text"] == page.find("h1")[0]["text"] == evil


def test_colours_of_the_terminal_are_translated(report: Report) -> None:
    page = report.cells(code(stream("\x1b[32mgreen\x1b[0m out")))
    assert page.find("span", "ansi-green-fg")[0]["text"] == "green"
    assert "```text\ngreen out\n```" in report.markdown
    assert "\x1b" not in report.html


def test_an_error_is_shown_without_terminal_codes(report: Report) -> None:
    traceback = ["\x1b[0;31mValueError\x1b[0m Traceback", "\x1b[0;31mValueError\x1b[0m: bad < value"]
    page = report.cells(code(new_output("error", ename="ValueError", evalue="bad < value", traceback=traceback)))
    (box,) = page.find("div", "error")
    assert box["text"].split("\n")[1] == "ValueError: bad < value"
    assert page.find("span", "ansi-red-fg")[0]["text"] == "ValueError"
    for text in (report.html, report.markdown):
        assert "\x1b" not in text
        assert "ValueError" in text


# --- sections that went wrong


def test_a_failed_section_says_so_under_its_heading(report: Report) -> None:
    marker = new_markdown_cell("An Exception was encountered at", metadata={"tags": ["papermill-error-cell-tag"]})
    failed = report.section(
        "01_one",
        marker,
        new_markdown_cell("# 1. Train\n\n## 1.1 Simple\n\nProse."),
        code(figure("a")),
        new_code_cell("never_run()"),
        status="failed",
        error="\x1b[31mRuntimeError\x1b[0m: no <memory>",
        seconds=12.4,
    )
    page = report.render(failed)
    (box,) = page.find("div", "error")
    assert " ".join(box["text"].split()) == "This section failed after 12 s: RuntimeError: no <memory>"
    order = [page.elements.index(element) for element in (page.find("h3")[0], box, page.find("img")[0])]
    assert order == sorted(order)
    assert page.elements.index(box) < next(i for i, e in enumerate(page.elements) if e["text"].strip() == "Prose.")
    assert "encountered" not in report.html + report.markdown
    title, prose = (report.markdown.index(text) for text in ("> **This section failed after 12 s**", "Prose."))
    assert report.markdown.index("### 1.1 Simple") < title < prose
    assert "RuntimeError: no <memory>" in report.markdown


def test_a_section_that_did_not_run_has_a_heading_and_a_reason(report: Report) -> None:
    page = report.render(Section("06_summary", None, "not run", "01_one failed"))
    assert [heading["text"] for heading in page.find("h2")] == ["Front", "06 summary", "Provenance"]
    (box,) = page.find("div", "error")
    assert " ".join(box["text"].split()) == "This section did not run: 01_one failed"
    assert "## 06 summary\n\n> **This section did not run**\n\n```text\n01_one failed\n```" in report.markdown


def test_a_section_shows_what_is_there_up_to_the_runs_that_are_missing(report: Report) -> None:
    error = new_output("error", ename="NotRunError", evalue="seed 0 is missing", traceback=["seed 0 is missing"])
    cells = [
        new_markdown_cell("# One"),
        new_code_cell("shown()", outputs=[new_output("display_data", {"text/plain": "a result"})], execution_count=1),
        new_markdown_cell("## More"),
        new_code_cell("missing()", outputs=[error], execution_count=2),
        new_markdown_cell("## The rest"),
    ]
    page = report.render(report.section("01_one", *cells, status="not run", error="seed 0 is missing"))
    (box,) = page.find("div", "error")
    assert " ".join(box["text"].split()) == "The rest of this section did not run: seed 0 is missing"
    assert "a result" in report.markdown
    assert "missing()" not in report.markdown
    assert "The rest\n" not in report.markdown
    nothing = [cells[0], new_code_cell("import this"), *cells[2:]]
    page = report.render(report.section("01_one", *nothing, status="not run", error="seed 0 is missing"))
    (box,) = page.find("div", "error")
    assert box["text"].split()[:3] == ["This", "section", "did"]
    assert "import this" not in report.markdown


def test_a_link_in_a_table_of_html_gets_the_number_of_its_figure(report: Report) -> None:
    table = '<table><tr><td><a href="#table-t">figure</a></td><td><a href="#fig-none">figure</a></td></tr></table>'
    shown = new_output("display_data", {"text/html": table, "text/markdown": "[figure](#table-t)"},
                       metadata={"cifarnb": {"kind": "table", "name": "t", "caption": "A table."}})  # fmt: skip
    report.render(report.section("01_one", new_code_cell("t()", outputs=[shown], execution_count=1)))
    assert '<td><a href="#table-t">Table 1</a></td><td>figure</td>' in report.html
    assert "[Table 1](#table-t)" in report.markdown


def test_a_timeout_is_told(report: Report) -> None:
    page = report.render(report.section("01_one", new_markdown_cell("# One"), status="timeout", seconds=600.0))
    assert page.find("div", "error")[0]["text"].strip() == "This section ran out of time after 600 s."


@pytest.mark.parametrize("content", ['{"cells": [', "{}", ""])
def test_a_notebook_cut_off_half_way_does_not_cost_the_report(report: Report, content: str) -> None:
    broken = report.folder / "02_two.ipynb"
    broken.write_text(content)
    page = report.render(
        report.section("01_one", new_markdown_cell("# One")),
        Section("02_two", broken, "failed"),
        Section("03_three", report.folder / "missing.ipynb", "ok"),
    )
    assert [heading["text"] for heading in page.find("h2")] == ["Front", "One", "02 two", "03 three", "Provenance"]
    boxes = [box["text"] for box in page.find("div", "error")]
    assert "02_two.ipynb cannot be read" in boxes[0]
    assert "missing.ipynb cannot be read" in boxes[1]


# --- the page as a whole


def test_the_banner_comes_first_and_only_if_there_is_something_to_say(report: Report) -> None:
    assert report.cells().find(css_class="banner") == []
    page = report.cells(banner=["**Quick** run.", "Second."])
    (banner,) = page.find(css_class="banner")
    assert banner["attrs"]["role"] == "note"
    assert banner["text"].split("\n")[1:3] == ["Quick run.", "Second."]
    assert (
        page.elements.index(page.find("h1")[0]) < page.elements.index(banner) < page.elements.index(page.find("h2")[0])
    )
    assert report.markdown.index("**Quick** run.") < report.markdown.index("## Front")


def test_the_page_loads_nothing_from_elsewhere(report: Report) -> None:
    page = report.cells(
        new_markdown_cell("![remote](https://example.org/a.png) ![local](a.png) [link](https://example.org)"),
        code(figure("a"), table("t")),
    )
    for element in page.elements:
        for name in ("src", "srcset", "href", "data", "poster"):
            if element["tag"] != "a" and (address := element["attrs"].get(name)):
                assert address.startswith("data:"), element
    assert len(page.find("img")) == 1
    assert not re.search(r"@import|url\((?!\"data:)", report.html)
    (policy,) = [meta["attrs"] for meta in page.find("meta") if "http-equiv" in meta["attrs"]]
    assert policy["content"].startswith("default-src 'none'; img-src data:; font-src data:;")


def test_the_page_has_the_chinese_characters_of_its_headings():
    """So that none is an empty box on a system without a Chinese font; index.html.j2 says how the file is made."""
    root = Path(__file__).parents[2]
    files = [*root.glob("notebooks/*.ipynb"), *root.glob("cifarnb/report/*.py")]
    wanted = {character for file in files for character in re.findall(HAN, file.read_text(encoding="utf-8"))}
    assert len(wanted) > 100
    with TTFont(TEMPLATES / "report" / "han.woff") as font:
        assert wanted - {chr(code) for code in font.getBestCmap()} == set()
        assert "SIL Open Font License" in font["name"].getDebugName(13)


def test_the_page_is_small_and_fit_for_every_reader(report: Report) -> None:
    page = report.cells(code(figure("a")))
    assert report.html.startswith("<!DOCTYPE html>")
    assert len(report.html) < 85_000
    names = {meta["attrs"].get("name") for meta in page.find("meta")}
    assert {"viewport", "color-scheme"} <= names
    skip = page.find("a")[0]
    assert (skip["text"], skip["attrs"]["href"]) == ("Skip to content", "#content")
    assert page.find("main")[0]["attrs"]["id"] == "content"


def test_the_same_input_gives_the_same_bytes(report: Report) -> None:
    sections = (
        report.section("01_one", new_markdown_cell("# One $x$"), code(figure("a"), table("t"), stream("out"))),
        Section("02_two", None, "not run", "why"),
    )
    report.render(*sections, banner=["Note."])
    first = {path: path.read_bytes() for path in report.out.rglob("*.*")}
    report.render(*sections, banner=["Note."])
    assert {path: path.read_bytes() for path in report.out.rglob("*.*")} == first
    assert len(first) == 3


def test_a_name_used_twice_gets_two_anchors(report: Report) -> None:
    page = report.cells(code(figure("a")), code(figure("a")), new_markdown_cell("[it](#fig-a)"))
    assert [element["attrs"]["id"] for element in page.find("figure")] == ["fig-a", "fig-a-2"]
    assert page.links()["Figure 1"] == "#fig-a"


@pytest.mark.filterwarnings("error")
def test_notebooks_may_share_cell_ids(report: Report) -> None:
    cell = new_markdown_cell("# Twin", id="twin")
    page = report.render(report.section("01_one", cell), report.section("02_two", cell))
    assert [heading["text"] for heading in page.find("h2")] == ["Front", "Twin", "Twin", "Provenance"]
