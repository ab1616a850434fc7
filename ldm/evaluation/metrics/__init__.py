"""Distances and scores as functions of features or images."""
