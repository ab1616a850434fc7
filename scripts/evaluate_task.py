"""Measure whether a model does what it is conditioned on: samples for held-out conditions."""

from ldm.cli.app import start

if __name__ == "__main__":
    start("evaluate_task")
