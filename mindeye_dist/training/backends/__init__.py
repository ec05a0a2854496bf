"""mindeye_dist/training/backends."""
