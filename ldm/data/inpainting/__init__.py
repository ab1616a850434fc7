"""Images with a part to fill in: masks, and pasting what was known."""
