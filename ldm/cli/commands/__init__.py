"""The help text and options of each program; light, see ``ldm.cli.app``."""
