"""From an entry of a batch to what conditions the denoiser."""
