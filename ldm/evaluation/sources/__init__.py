"""Where images of an evaluation come from."""
