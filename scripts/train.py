"""Train one stage of a latent diffusion model from a config."""

from ldm.cli.app import start

if __name__ == "__main__":
    start("train")
