"""Help and options of the programs of data."""
