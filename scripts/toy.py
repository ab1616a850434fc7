"""The laptop toy: diffusion of points in the plane, trained and filmed in two minutes on a CPU."""

from ldm.cli.app import start

if __name__ == "__main__":
    start("toy")
