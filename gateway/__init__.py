"""A payment gateway between terminals and acquirers."""

__version__ = "0.1.0"
