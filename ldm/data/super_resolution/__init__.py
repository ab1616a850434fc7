"""Images with a smaller, degraded copy of themselves."""
