"""Data: shards, loader, simulated brains."""
