"""mindeye_dist/storage."""
