"""Files that hold numbers, with checksums: what was damaged is noticed before it is used."""
