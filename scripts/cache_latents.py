"""Encode the images of a stage-2 config once, and train from their latents."""

from ldm.cli.app import start

if __name__ == "__main__":
    start("cache_latents")
