"""The programs of sampling."""
