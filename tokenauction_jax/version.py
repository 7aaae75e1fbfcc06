"""The version of the package, which results record."""

__version__ = "0.1.0"
