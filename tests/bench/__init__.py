"""Measurements. Each module runs alone (``python -m tests.bench.online``), prints a table and writes a JSON file."""
