"""jobs/work."""
