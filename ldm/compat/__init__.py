"""Translation of foreign configurations and weights: pure functions of mappings."""
