"""The HTML page as a PDF to hand in, printed by the Chromium that is there."""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

BROWSERS = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)  # fmt: skip
SECONDS = 300  # a page that takes longer is not printed; one with 40 figures takes 5
FLAGS = (
    "--headless",
    "--no-sandbox",  # which root, and many a container, cannot have; the page is ours and loads nothing
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--no-pdf-header-footer",  # the style sheet numbers the pages
    "--generate-pdf-document-outline",
)
HOW_TO = (
    "Chromium is not found (chromium, chromium-browser or google-chrome on the PATH); install it, for instance with "
    "apt-get install chromium or brew install --cask google-chrome, and give the same command again"
)


class PrintError(RuntimeError):
    """A page cannot be printed; the message says why in one line."""


def find_browser() -> str | None:
    """The command of a Chromium, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def print_page(page: Path, pdf: Path) -> None:
    """Print an HTML page: tagged, with its headings as bookmarks and with its links.  Raises PrintError.

    What Chromium reads and writes lies beside ``pdf``: one that comes as a snap sees no other process's /tmp.
    """
    browser = find_browser()
    if not browser:
        raise PrintError(HOW_TO)
    with tempfile.TemporaryDirectory(dir=pdf.parent, prefix="print-", ignore_cleanup_errors=True) as folder:
        source, made = Path(folder).resolve() / page.name, Path(folder).resolve() / "made.pdf"
        source.write_text(without_relative_links(page.read_text(encoding="utf-8")), encoding="utf-8")
        command = [browser, *FLAGS, f"--user-data-dir={folder}/profile", f"--print-to-pdf={made}", source.as_uri()]
        try:
            done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise PrintError(f"{browser} cannot print it (not done after {SECONDS} s)") from None
        if done.returncode or not made.exists():
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise PrintError(f"{browser} cannot print it (exit code {done.returncode}; {(said or [''])[-1][:200]})")
        made.replace(pdf)


def without_relative_links(page: str) -> str:
    """HTML with the text and the address in place of a link to a file beside the page.

    Chromium would make of it a link to where that file lies on this machine.
    """
    return re.sub(r'(?s)<a href="(?!#|[A-Za-z][\w+.-]*:)([^"]*)"[^>]*>(.*?)</a>', r"\2 (\1)", page)
