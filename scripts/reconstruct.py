"""Send photographs through a first stage, at full resolution and of any height and width."""

from ldm.cli.app import start

if __name__ == "__main__":
    start("reconstruct")
