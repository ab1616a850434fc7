"""Images with boxes, and boxes as tokens."""
