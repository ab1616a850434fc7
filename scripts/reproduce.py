"""Reproduce a published figure: sample and evaluate as the paper did, side by side."""

from ldm.cli.app import start

if __name__ == "__main__":
    start("reproduce")
