"""Make images of layouts: boxes with classes, read from a JSON file."""

from ldm.cli.app import start

if __name__ == "__main__":
    start("layout2img")
