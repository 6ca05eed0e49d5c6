"""The pictures of notebooks: shown by a cell, pasted into one, named by one as a file; each becomes part of the report.

The HTML page embeds them, since it loads nothing from anywhere; beside the Markdown page they lie in ``figures/``.
"""

import base64
import html
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

EXTENSIONS = {  # the types that browsers show, those first that are preferred where a cell shows several
    "image/png": "png",
    "image/svg+xml": "svg",
    "image/jpeg": "jpg",
    "image/gif": "gif",
    "image/webp": "webp",
}
LEFT_OUT = "A picture is left out here, because this page loads nothing from anywhere"
_SUFFIXES = {f".{extension}": mime for mime, extension in EXTENSIONS.items()} | {".jpeg": "image/jpeg"}
_TAG = re.compile(r"<img\b(?:[^>\"']|\"[^\"]*\"|'[^']*')*>", re.IGNORECASE)
_SOURCE = re.compile(r"(?<=\s)src\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s>]+))", re.IGNORECASE)
_MARKDOWN = re.compile(r"(!\[[^\]]*\]\(\s*)<?([^\s()<>]+)>?(?=[\s)])")


@dataclass(frozen=True)
class Picture:
    """A picture as a file holds it."""

    mime: str
    content: bytes

    @property
    def address(self) -> str:
        """What a page that embeds it has as the picture's address."""
        return f"data:{self.mime};base64,{base64.b64encode(self.content).decode()}"

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height in pixels of a PNG; of others None, which a browser finds out by itself."""
        return struct.unpack(">II", self.content[16:24]) if self.mime == "image/png" else None


Keep = Callable[[Picture, str], str]  # takes a picture and a name for it, returns the path that it gets


def from_data(data: Mapping[str, Any]) -> Picture | None:
    """The picture among the forms of an output or of an attachment; None if there is none."""
    for mime in EXTENSIONS:
        if mime in data:
            text = "".join(data[mime])
            return Picture(mime, text.encode() if mime == "image/svg+xml" else base64.b64decode(text))
    return None


def keep_named(source: str, attachments: Mapping[str, Any], folder: Path | None, keep: Keep) -> str:
    """The Markdown of a cell in which every picture that is pasted into it, or lies in ``folder``, has been kept."""
    paths: dict[str, str] = {}

    def path(address: str) -> str:
        if address not in paths and (picture := _find(unquote(html.unescape(address)), attachments, folder)):
            paths[address] = keep(picture, Path(unquote(address).removeprefix("attachment:")).stem)
        return paths.get(address, address)

    source = _MARKDOWN.sub(lambda match: match[1] + path(match[2]), source)
    return _in_tags(source, lambda address, whole: whole.replace(address, path(address)))


def embed(page: str, pictures: Mapping[str, Picture]) -> str:
    """HTML whose pictures are part of it; in the place of any other stands that it was left out."""

    def replace(address: str, whole: str) -> str:
        if address in pictures:
            return whole.replace(address, pictures[address].address)
        return whole if address.startswith("data:") else left_out(address)

    return _in_tags(page, replace)


def left_out(address: str) -> str:
    """HTML that stands for a picture from elsewhere."""
    where = html.escape(html.unescape(address), quote=False)
    return f'<span class="left-out">{LEFT_OUT}: {where}</span>'


def _in_tags(text: str, replace: Callable[[str, str], str]) -> str:
    """The text with each ``<img>`` replaced by what is made of its address and the whole tag."""

    def tag(match: re.Match[str]) -> str:
        found = _SOURCE.search(match[0])
        return replace(next(filter(None, found.groups()), ""), match[0]) if found else match[0]

    return _TAG.sub(tag, text)


def _find(name: str, attachments: Mapping[str, Any], folder: Path | None) -> Picture | None:
    if name.startswith("attachment:"):
        return from_data(attachments.get(name.removeprefix("attachment:"), {}))
    mime = _SUFFIXES.get(Path(name).suffix.lower())
    if not mime or not folder or re.match(r"[a-z]+:|/", name):
        return None
    try:
        return Picture(mime, (folder / name).read_bytes())
    except OSError:
        return None
