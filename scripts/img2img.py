"""Change images with a latent diffusion model: into variations, or towards a prompt or class."""

from ldm.cli.app import start

if __name__ == "__main__":
    start("img2img")
