"""Fill holes in images: with an inpainting model, or with any other one."""

from ldm.cli.app import start

if __name__ == "__main__":
    start("inpaint")
