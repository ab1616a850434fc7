"""``python -m ldm PROGRAM ...``: the same as the command ``ldm``."""

from ldm.cli.app import main

if __name__ == "__main__":
    main()
