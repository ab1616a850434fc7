"""Help and options of the programs of sampling."""

from ldm.cli.options.sampling import check_sampling_files as check_files

__all__ = ["check_files"]
