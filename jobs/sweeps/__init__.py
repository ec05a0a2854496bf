"""jobs/sweeps."""
