"""Sample an unconditional or class-conditional latent diffusion model."""

from ldm.cli.app import start

if __name__ == "__main__":
    start("sample")
