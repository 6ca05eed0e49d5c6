"""Executed notebooks → one HTML file and one Markdown file with its figures.

nbconvert has no way to join notebooks, so the cells of all sections are first joined into one notebook, on which
everything that the formats share is settled: what is left out, the numbers of figures and tables, cross-references.
nbconvert then exports that notebook twice with the templates in ``templates/report``.
"""

import base64
import hashlib
import html
import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nbformat
from latex2mathml.converter import convert as latex_to_mathml
from nbconvert import HTMLExporter, MarkdownExporter
from nbconvert.filters import strip_ansi
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath, MathBlockParser, MathInlineParser
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_notebook
from traitlets.config import Config

from cifarnb.report import html_tables
from cifarnb.report.pictures import EXTENSIONS, Picture, embed, from_data, keep_named, left_out

TEMPLATES = Path(__file__).parent / "templates"
SHOWN_TYPES = (*EXTENSIONS, "text/html", "text/markdown", "text/plain")
BARE = re.compile(r"<IPython\.core\.display\.\w+ object>")  # the text of an output that has none
STATUS_TITLES = {"failed": "This section failed", "timeout": "This section ran out of time"}
FENCED = r"^ {0,3}(?P<fence>```+|~~~+).*?(?:^ {0,3}(?P=fence)[`~]*[ \t]*$|\Z)"
CODE_SPAN = r"(?P<ticks>`+)(?:(?!\n\s*\n).)+?(?P=ticks)"
REFERENCE = r"\[(?P<text>[^\[\]]*)\]\((?P<target>#(?:fig|table|section)-[^()\s]+)\)"
LEADING_HEADINGS = re.compile(r"\s*(?:#{1,6}[ \t][^\n]*(?:\n\s*|$))+")
HAN = r"[\u3000-\u303f\u3400-\u9fff\uff00-\uffef]"
CHINESE = re.compile(rf"\([^()<>]*{HAN}[^()<>]*\)|{HAN}(?:[^()<>&]*{HAN})?")  # a bracket with Chinese in it, or a run


@dataclass(frozen=True)
class Section:
    """One executed (or not executed) notebook of the report."""

    name: str  # file stem, e.g. "01_simple_cnn"
    notebook: Path | None  # the executed notebook; None when it did not run
    status: str  # "ok", "failed", "timeout", "not run"
    error: str | None = None  # one line: what went wrong
    seconds: float = 0.0


def render(
    sections: Sequence[Section],
    out: Path,
    *,
    title: str,
    banner: Sequence[str],
    front: str | Callable[[Collection[str]], str],
    provenance: str,
    byline: str = "",
    files: Mapping[str, str] | None = None,
) -> tuple[Path, Path]:
    """Write ``out/report.html``, ``out/report.md`` and ``out/figures/``; return the first two paths.

    ``byline`` (inline Markdown) stands under the title, ``banner`` holds notices (inline Markdown) that the reader must
    know, ``front`` the Markdown of the front page, or what makes it of the anchors that the sections have, and
    ``provenance`` the Markdown of the closing section, which gets the heading "Provenance" if it brings none.  A file
    that the text names as code, `` `there` ``, becomes a link where ``files`` says what it is called in ``out``:
    there → here.
    """
    if not LEADING_HEADINGS.match(provenance):
        provenance = f"# Provenance\n\n{provenance}"
    pictures: dict[str, Picture] = {}
    cells: list[NotebookNode] = []
    links: dict[str, str] = {}
    for section in sections:
        found = _section_cells(section, pictures)
        if section.status == "ok" and found:
            links |= _anchor(found[0], section.name)
        cells += found
    links |= _number(cells, pictures)
    if callable(front):
        front = front({target.removeprefix("#") for target in links})
    cells = [_markdown_cell("front", front), *cells, _markdown_cell("provenance", provenance)]
    links |= {f"`{there}`": f"[{Path(here).name}]({here})" for there, here in (files or {}).items()}
    banner = [_resolve(notice, links) for notice in banner]
    _resolve_cells(cells, links)

    book = new_notebook(metadata={"language_info": {"name": "python", "pygments_lexer": "ipython3"}})
    book.cells = cells
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"  # two notebooks may use the same id, of which nbconvert would warn
    texts = {"title": title, "byline": byline, "banner": banner}
    html_page = _to_html(book, texts, pictures)
    markdown_page = _to_markdown(book, texts)

    for name, picture in pictures.items():
        _write(out / name, picture.content)
    _write(out / "report.html", html_page.encode())
    _write(out / "report.md", markdown_page.encode())
    return out / "report.html", out / "report.md"


# --------------------------------------------------------------------------- joining the notebooks


def _markdown_cell(section: str, source: str, notice: dict[str, str] | None = None) -> NotebookNode:
    return new_markdown_cell(source, metadata={"report": {"section": section, "notice": notice}})


def _section_cells(section: Section, pictures: dict[str, Picture]) -> list[NotebookNode]:
    """Return the cells of a section that the report shows, with a notice under the first heading if it is not ok."""
    notebook, problem = None, section.error
    if section.notebook is not None:
        try:
            notebook = nbformat.read(section.notebook, as_version=4)
        except Exception as error:  # a notebook cut off half-way may raise anything; it must not cost the whole report
            problem = problem or f"{section.notebook.name} cannot be read: {type(error).__name__}: {error}"
    if notebook is None:
        cells = [_markdown_cell(section.name, f"# {section.name.replace('_', ' ')}")]
    else:
        cells = [cell for cell in notebook.cells if _is_shown(cell)]
    if section.status == "not run":
        cells = _until_error(cells)
    folder = _source_folder(notebook)
    for cell in cells:
        cell.metadata["report"] = {"section": section.name}
        if cell.cell_type == "markdown":

            def keep(picture: Picture, name: str) -> str:
                return _keep(picture, f"{section.name}-{name}", pictures)

            cell.source = keep_named(cell.source, cell.pop("attachments", {}), folder, keep)
        else:
            cell.outputs = [shown for output in cell.outputs if (shown := _shown_output(output))]

    if section.status == "ok" and notebook is not None:
        return cells
    title = STATUS_TITLES.get(section.status) if notebook is not None else None
    after = f" after {section.seconds:.0f} s" if title and section.seconds else ""
    text = " ".join(strip_ansi(problem or "").split())
    if section.status == "not run" and any(cell.cell_type == "code" for cell in cells):
        rest = {"title": "The rest of this section did not run", "text": text}
        return [*cells, _markdown_cell(section.name, "", rest)]
    notice = {"title": f"{title or 'This section did not run'}{after}", "text": text}
    return _under_first_heading(cells, _markdown_cell(section.name, "", notice))


def _source_folder(notebook: NotebookNode | None) -> Path | None:
    """Where the notebook lay that was executed, and the files that it names; papermill notes it."""
    source = (notebook or NotebookNode()).get("metadata", {}).get("papermill", {}).get("input_path")
    return Path(source).parent if source else None


def _keep(picture: Picture, name: str, pictures: dict[str, Picture]) -> str:
    """Add a picture; returns its path in the folder of the report."""
    stem = _unique(f"figures/{_slug(name)}", {path.rpartition(".")[0] for path in pictures})
    path = f"{stem}.{EXTENSIONS[picture.mime]}"
    pictures[path] = picture
    return path


def _until_error(cells: list[NotebookNode]) -> list[NotebookNode]:
    """The cells before the one that failed, and if those show nothing, no more than what precedes all code."""
    failed = [any(output.output_type == "error" for output in cell.get("outputs", [])) for cell in cells]
    done = cells[: failed.index(True)] if True in failed else cells
    if any(output.output_type != "stream" for cell in done for output in cell.get("outputs", [])):
        return done
    return list(itertools.takewhile(lambda cell: cell.cell_type == "markdown", done))


def _under_first_heading(cells: list[NotebookNode], notice: NotebookNode) -> list[NotebookNode]:
    """Put a notice under the first heading, or under the subheading that directly follows it."""
    for index, cell in enumerate(cells):
        if cell.cell_type == "markdown" and (headings := LEADING_HEADINGS.match(cell.source)):
            rest = _markdown_cell(cell.metadata.report.section, cell.source[headings.end() :])
            cell.source = headings[0]
            return [*cells[: index + 1], notice, rest, *cells[index + 1 :]]
    return [notice, *cells]


def _is_shown(cell: NotebookNode) -> bool:
    tags = cell.metadata.get("tags", [])
    hidden = "remove-cell" in tags or any(tag.startswith("papermill-error") for tag in tags)
    return cell.cell_type in ("code", "markdown") and not hidden


def _shown_output(output: NotebookNode) -> NotebookNode | None:
    """Return the output with only what the templates show of it, None if that is nothing."""
    if output.output_type == "error":
        return output
    if output.output_type == "stream":
        return output if output.text.strip() else None  # the templates leave out stderr
    kind = output.metadata.get("cifarnb", {}).get("kind")
    if kind == "caption" or "application/vnd.jupyter.widget-view+json" in output.data:
        return None
    output.output_type = "display_data"  # the report makes no difference between a cell's value and what it displays
    if latex := output.data.get("text/latex"):
        output.data.setdefault("text/markdown", latex)  # in which formulas are written as in LaTeX
    output.data = NotebookNode({mime: output.data[mime] for mime in SHOWN_TYPES if mime in output.data})
    table = output.data.pop("text/html", "")
    if "<table" in table:  # other HTML (a script, a progress bar) gives way to the plain text beside it
        output.data["text/html"] = embed(html_tables.bare(table), {})
    plain = output.data.get("text/plain", "")
    if BARE.fullmatch(plain):
        output.data["text/plain"] = html_tables.text(embed(table, {})) or plain
    return output if output.data else None


# --------------------------------------------------------------------------- numbers and references


def _anchor(cell: NotebookNode, section: str) -> dict[str, str]:
    """Give the first cell of a section an anchor; returns the Markdown link for it, which has the section's number."""
    numbers = re.findall(r"^#+ (\d[\d.]*)", cell.source, re.MULTILINE)
    cell.metadata.report.anchor = f"section-{_slug(section)}"
    title = f"Section {numbers[-1].rstrip('.')}" if numbers else section.replace("_", " ")
    return {f"#section-{section}": f"[{title}](#{cell.metadata.report.anchor})"}


def _number(cells: Iterable[NotebookNode], pictures: dict[str, Picture]) -> dict[str, str]:
    """Give figures and tables their numbers, gather the figures; return the Markdown link for each "#fig-name"."""
    links: dict[str, str] = {}
    count: Counter[str] = Counter()
    used: set[str] = set()
    for cell in cells:
        for output in cell.get("outputs", []):
            if output.output_type != "display_data":
                continue
            info = output.metadata.get("cifarnb", {})
            if picture := from_data(output.data):
                kind, label = "fig", "Figure"
            elif info.get("kind") == "table" and "text/html" in output.data:
                kind, label = "table", "Table"
            else:
                continue
            count[kind] += 1
            name = _slug(info.get("name") or str(count[kind]))
            target, title = _unique(f"{kind}-{name}", used), f"{label} {count[kind]}"
            output.metadata["report"] = {"id": target, "label": title, "caption": info.get("caption", "")}
            if picture:
                path = _keep(picture, f"{count[kind]:02d}-{name}", pictures)
                output.metadata["report"] |= _looks(output, picture) | {"path": path}
            links[f"#{target}"] = f"[{title}](#{target})"
    return links


def _looks(output: NotebookNode, picture: Picture) -> dict[str, Any]:
    """Return the alternative text, and the size in CSS pixels as far as it is stated or known."""
    stated = output.metadata.get(picture.mime, {})
    width, height = (stated.get(name) for name in ("width", "height"))
    if picture.size and not (width and height):
        width, height = picture.size
    alt = stated.get("alt") or BARE.sub("", output.data.get("text/plain", "")) or "Figure without a description"
    return {"width": width and round(width), "height": height and round(height), "alt": " ".join(alt.split())}


def _resolve_cells(cells: Iterable[NotebookNode], links: dict[str, str]) -> None:
    for cell in cells:
        if cell.cell_type == "markdown":
            cell.source = _resolve(cell.source, links)
        for output in cell.get("outputs", []):
            if "text/markdown" in output.get("data", {}):
                output.data["text/markdown"] = _resolve(output.data["text/markdown"], links)
            if "text/html" in output.get("data", {}):
                output.data["text/html"] = html_tables.resolve(output.data["text/html"], links)
            if "report" in output.get("metadata", {}):
                output.metadata.report.caption = _resolve(output.metadata.report.caption, links)


def _resolve(text: str, links: Mapping[str, str]) -> str:
    """Give a link to a figure or table its number for a text, and make a link of a file that is named as code.

    A link to what this report does not have becomes its mere text.
    """

    def number(match: re.Match[str]) -> str:
        return links.get(match["target"], match["text"])

    text = _replace_outside_code(REFERENCE, number, text)
    return re.sub(r"`[^`\n]+`", lambda match: links.get(match[0], match[0]), text)


def _replace_outside_code(pattern: str, replace: Callable[[re.Match[str]], str], text: str) -> str:
    either = re.compile(rf"(?P<code>{FENCED}|{CODE_SPAN})|{pattern}", re.MULTILINE | re.DOTALL)
    return either.sub(lambda match: match[0] if match["code"] else replace(match), text)


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-") or "section"


def _unique(name: str, used: set[str]) -> str:
    """Return the name, numbered if it is taken, and take it."""
    number, candidate = 1, name
    while candidate in used:
        number += 1
        candidate = f"{name}-{number}"
    used.add(candidate)
    return candidate


# --------------------------------------------------------------------------- HTML


class _Page(IPythonRenderer):
    """Markdown → HTML, collecting the contents list on the way."""

    def __init__(self, pictures: Mapping[str, Picture]) -> None:
        super().__init__(escape=False, allow_harmful_protocols=False, exclude_anchor_links=True)
        self.contents: list[dict[str, Any]] = []
        self._pictures = pictures
        self._section = ""
        self._used = {"top", "content", "end"}
        inline = MathInlineParser(hard_wrap=False)
        # nbconvert makes a formula of "from $5 to $10". Here "$" must touch the formula and no digit may follow it.
        inline.specification["inline_math_tex"] = (
            r"(?<![\\$])\$(?![\s$])(?P<math_inline_tex>[^$`]+?)(?<![\s\\])\$(?![\d$])"
        )
        self._markdown = MarkdownWithMath(self, MathBlockParser(), inline)

    def to_html(self, source: str, section: str = "") -> str:
        self._section = section
        return self._markdown.render(source)

    def to_inline_html(self, source: str) -> str:
        return self(self._markdown.inline(source, {}), self._markdown.block.state_cls())

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        level = min(level + 1, 6)  # h1 is the title of the report
        text = CHINESE.sub(lambda match: f'<span lang="zh">{match[0]}</span>', text)
        slug = _slug(html.unescape(re.sub(r"<[^>]+>", "", text)).lower())
        target = _unique(f"{_slug(self._section)}-{slug}", self._used)
        entry = {"id": target, "text": re.sub(r"</?a\b[^>]*>", "", text), "children": []}
        if level == 2 or (level == 3 and not self.contents):
            self.contents.append(entry)
        elif level == 3:
            self.contents[-1]["children"].append(entry)
        return f'<h{level} id="{target}">{text}</h{level}>\n'

    def table(self, text: str) -> str:
        return html_tables.bare(f'<div class="table-scroll">\n<table>\n{text}</table>\n</div>\n')

    def image(self, text: str, url: str, title: str | None = None) -> str:
        if picture := self._pictures.get(url):
            size = 'width="{}" height="{}" '.format(*picture.size) if picture.size else ""
            alt = html.escape(text)
            return f'<img src="{picture.address}" alt="{alt}" {size}style="max-width:100%;height:auto">'
        return super().image(text, url, title) if url.startswith("data:") else left_out(url)

    def inline_html(self, html: str) -> str:
        return embed(super().inline_html(html), self._pictures)

    def block_html(self, html: str) -> str:
        return embed(super().block_html(html), self._pictures)

    def inline_math(self, body: str) -> str:
        return _mathml(body, "inline")

    def block_math(self, body: str) -> str:
        return f'<span class="formula">{_mathml(body, "block")}</span>'

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")


def _mathml(tex: str, display: str) -> str:
    """Return native MathML, or the TeX as code where latex2mathml does not know what to make of it."""
    try:
        mathml = latex_to_mathml(tex.replace("{aligned}", "{align*}"), display=display)
        ElementTree.fromstring(mathml)  # it lets a stray "&" through
        if "\\" in mathml:
            raise ValueError("an unknown command comes through as text")
    except Exception:  # its exceptions have no common base
        return f"<code>{html.escape(tex.strip())}</code>"
    return mathml.replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "")


def _to_html(book: NotebookNode, texts: Mapping[str, Any], pictures: Mapping[str, Picture]) -> str:
    page = _Page(pictures)
    script = (TEMPLATES / "report" / "script.js").read_text(encoding="utf-8")
    exporter = HTMLExporter(
        template_name="report",
        extra_template_basedirs=[str(TEMPLATES)],
        filters={
            "markdown2html": page.to_html,
            "inline2html": page.to_inline_html,
            "address": lambda path: pictures[path].address,
        },
    )
    # Not among the resources, of which the template gets a copy: the list is filled while the cells are rendered.
    exporter.environment.globals["contents"] = page.contents
    report = {
        **texts,
        "title": html.escape(texts["title"]),
        "script": script,
        "han": base64.b64encode((TEMPLATES / "report" / "han.woff").read_bytes()).decode(),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    page_html, _ = exporter.from_notebook_node(book, resources={"report": report})
    # Names, operators and punctuation have no colour of their own; their spans are more than half of the code's bytes.
    return re.sub(r'<span class="(?:n|nn|o|p|w)">([^<]*)</span>', r"\1", page_html)


# --------------------------------------------------------------------------- Markdown


def _to_markdown(book: NotebookNode, texts: Mapping[str, Any]) -> str:
    exporter = MarkdownExporter(
        template_name="report",
        extra_template_basedirs=[str(TEMPLATES)],
        filters={"demote": _demote, "fence": _fence},
        config=Config(ExtractOutputPreprocessor={"enabled": False}),  # the pictures have their places already
    )
    page, _ = exporter.from_notebook_node(book, resources={"report": texts})
    return page.rstrip() + "\n"


def _demote(source: str) -> str:
    """Lower each heading by one level."""
    return _replace_outside_code(r"^(?P<hashes> {0,3}#{1,5})(?=[ \t])", lambda match: f"{match['hashes']}#", source)


def _fence(text: str, language: str = "") -> str:
    """Put text into a code block whose fence is longer than any run of backticks inside."""
    ticks = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{ticks}{language}\n{text.rstrip()}\n{ticks}"


def _write(path: Path, data: bytes) -> None:
    """Write a file in one step, so that a reader never meets half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
