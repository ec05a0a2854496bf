"""mindeye_dist/evaluation."""
