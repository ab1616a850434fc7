"""YAML files and checkpoints of the original code."""
