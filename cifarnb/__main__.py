"""``python -m cifarnb``."""

from cifarnb.cli import main

main()
