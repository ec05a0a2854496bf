"""mindeye_dist/generators."""
