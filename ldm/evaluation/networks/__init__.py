"""Feature networks, and how images are resized for them."""
