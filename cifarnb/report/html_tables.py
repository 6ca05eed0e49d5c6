"""Tables of HTML as the page has them: without the looks that their makers gave them, and readable on a phone."""

import html
import itertools
import re
from collections.abc import Mapping

CARDS = range(4, 9)  # columns of a table whose rows are cards on a phone: fewer fit, with more a row is a screen high


def bare(table: str) -> str:
    """Leave the looks of a table to the style sheet; what its maker aligned to the right becomes the class "num"."""
    table = re.sub(r"(?s)<(style|script)\b.*?</\1>", "", table)
    table = re.sub(r'(<table[^>]*?) border="\d+"', r"\1", table)
    table = re.sub(r'(<t[dh]) style="text-align: ?right;?"', r'\1 class="num"', table)
    return _label_cells(re.sub(r'(<t[rdh]) style="text-align: ?(left|right);?"', r"\1", table))


def _label_cells(table: str) -> str:
    """Have the cells of a table with CARDS columns say which column they are in, which the page shows on a phone.

    Its first column is a card's heading and gets no label.
    """
    head, end, body = table.partition("</thead>")
    names = [text(cell) for cell in re.findall(r"(?s)<th\b[^>]*>(.*?)</th>", head)]
    if len(names) not in CARDS or head.count("<tr") > 1 or "span=" in table:  # no one name for every cell
        return table

    def label(row: re.Match[str]) -> str:
        start, *cells = re.split(r"(?=<t[dh]\b)", row[0])
        labelled = (
            cell.replace(">", f' data-label="{html.escape(name)}">', 1)
            for cell, name in itertools.zip_longest(cells[1:], names[1:], fillvalue="")
        )
        return "".join([start, *cells[:1], *labelled])

    return head + end + re.sub(r"(?s)<tr\b.*?</tr>", label, body)


def text(page: str) -> str:
    """What HTML says, without its tags."""
    page = re.sub(r"(?s)<(style|script)\b.*?</\1>", "", page)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def resolve(table: str, links: Mapping[str, str]) -> str:
    """Give a link to a figure or table its number for a text; one to what the report does not have becomes its text.

    ``links`` has the Markdown link for each ``#fig-name``.
    """

    def number(match: re.Match[str]) -> str:
        title = links.get(match["target"], "").partition("]")[0].removeprefix("[")
        return f'<a href="{match["target"]}">{title}</a>' if title else match["text"]

    return re.sub(r'<a href="(?P<target>#(?:fig|table|section)-[^"]+)">(?P<text>.*?)</a>', number, table)
