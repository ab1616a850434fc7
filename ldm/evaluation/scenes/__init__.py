"""An exact judge of synthetic scenes."""
