"""Synthetic scenes with captions, boxes and label maps; points in the plane."""
