"""The command line: bodies of a few lines, no rules of its own."""

from __future__ import annotations


def main() -> None:
    """Run the command line; the console script's entry point."""
    from featurectl.cli.app import app

    app()
