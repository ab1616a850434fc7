"""The programs of data."""
