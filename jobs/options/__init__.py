"""jobs/options."""
