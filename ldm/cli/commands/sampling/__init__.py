"""Help and options of the programs of sampling."""

from ldm.cli.options.model import check_source as check_files

__all__ = ["check_files"]
