"""Building blocks shared by the networks; they know of no configuration and no training."""
