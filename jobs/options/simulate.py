"""Flags of `jobs/simulate.py`: the simulated data set and its destination."""

from dataclasses import dataclass

from mindeye_dist.simulation.config import SimulatedDataset


@dataclass(frozen=True, kw_only=True)
class Simulate(SimulatedDataset):
    """Simulate the responses of subjects to pictures, and write their shards."""

    out: str = "data/demo"
    """Output folder or s3:// prefix."""
    overwrite: bool = False
    """Replace an existing data set."""
