"""Configurations and weights of diffusers."""
