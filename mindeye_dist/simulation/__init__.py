"""mindeye_dist/simulation."""
