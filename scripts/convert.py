"""Convert checkpoints between this library, the original code (CompVis) and diffusers."""

from ldm.cli.app import start

if __name__ == "__main__":
    start("convert")
