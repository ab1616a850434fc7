"""Measure generated images by a protocol that the report states: FID and all that goes with it."""

from ldm.cli.app import start

if __name__ == "__main__":
    start("evaluate")
