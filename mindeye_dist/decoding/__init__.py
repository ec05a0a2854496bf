"""mindeye_dist/decoding."""
