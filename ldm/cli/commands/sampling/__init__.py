"""Help and options of the programs of sampling."""

from ldm.cli.options.model import check_source as check

__all__ = ["check"]
