"""Options that several programs have; light, see ``ldm.cli.app``."""
