"""Engine: trainer, backends, schedule, journal."""
