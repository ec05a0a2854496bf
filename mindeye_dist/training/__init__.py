"""mindeye_dist/training."""
