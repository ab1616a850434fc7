"""Latent caches: what a first stage makes of a data set, computed once."""
