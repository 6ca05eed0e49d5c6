"""``python -m cifarnb``."""

from cifarnb.cli import app

app(prog_name="cifarnb")
