"""jobs/opening."""
