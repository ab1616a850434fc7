"""Batches whose order and random numbers are functions of seed and place."""
