"""jobs/on_ray."""
