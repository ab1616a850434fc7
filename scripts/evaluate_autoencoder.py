"""Measure a first stage: how well it reconstructs, and whether its latents suit stage 2."""

from ldm.cli.app import start

if __name__ == "__main__":
    start("evaluate_autoencoder")
