"""Pack captioned pictures into shards to train on, and hold some of what they show out."""

from ldm.cli.app import start

if __name__ == "__main__":
    start("pack_pictures")
