"""mindeye_dist/reports."""
