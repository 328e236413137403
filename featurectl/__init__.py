"""Run a Feast feature store for market data on TimescaleDB, from one command line."""

__version__ = "0.1.0"
