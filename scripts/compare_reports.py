"""May the numbers of two evaluations be compared? If not, what differs."""

from ldm.cli.app import start

if __name__ == "__main__":
    start("compare_reports")
