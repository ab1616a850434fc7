"""Draw the forward and the reverse process of a diffusion model as one picture."""

from ldm.cli.app import start

if __name__ == "__main__":
    start("draw_process")
