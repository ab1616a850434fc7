"""Write synthetic scenes as files, to try the recipes of configs/data without a download."""

from ldm.cli.app import start

if __name__ == "__main__":
    start("pack_pictures")
