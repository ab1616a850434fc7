"""Make images with a retrieval-augmented model, of a query and what a database has near it."""

from ldm.cli.app import start

if __name__ == "__main__":
    start("retrieve2img")
