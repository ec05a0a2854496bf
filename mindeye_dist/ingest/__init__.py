"""mindeye_dist/ingest."""
