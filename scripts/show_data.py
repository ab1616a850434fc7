"""Look at the data of a config, as training would get them."""

from ldm.cli.app import start

if __name__ == "__main__":
    start("show_data")
