"""mindeye_dist/runs."""
