"""A film that walks from one prompt, class, image or noise to the next."""

from ldm.cli.app import start

if __name__ == "__main__":
    start("walk")
