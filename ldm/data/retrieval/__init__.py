"""Stored embeddings of images, and the nearest of them as a condition."""
