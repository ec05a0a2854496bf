"""mindeye_dist/frozen."""
