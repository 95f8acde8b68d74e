"""Text recognisers that are small enough to forget about."""

__version__ = "0.1.0"
