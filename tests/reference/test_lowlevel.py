"""The low-level network against the published model's outputs."""
