"""The version, where all layers may know it."""

__version__ = "0.1.0"
