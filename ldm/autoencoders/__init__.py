"""First stages: from images to latents and back."""
