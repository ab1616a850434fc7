"""Embed the images of a folder with CLIP, for retrieval, and index them."""

from ldm.cli.app import start

if __name__ == "__main__":
    start("build_index")
