"""Make images from text with a text-conditional latent diffusion model."""

from ldm.cli.app import start

if __name__ == "__main__":
    start("txt2img")
