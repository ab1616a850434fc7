"""Enlarge images with a super-resolution model."""

from ldm.cli.app import start

if __name__ == "__main__":
    start("superres")
