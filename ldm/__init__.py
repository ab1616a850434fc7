"""Train latent diffusion models (Rombach et al., arXiv 2112.10752)."""

__version__ = "0.1.0"
