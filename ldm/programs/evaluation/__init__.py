"""The programs of evaluation."""
