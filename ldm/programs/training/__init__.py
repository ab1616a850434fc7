"""The programs of training."""
