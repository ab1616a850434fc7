"""Make images of semantic maps: a class id for every pixel, read from PNG or .npy files."""

from ldm.cli.app import start

if __name__ == "__main__":
    start("semantic2img")
