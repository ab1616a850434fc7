"""Networks that predict the noise: ``denoiser(x, t, context=None, y=None)``."""
