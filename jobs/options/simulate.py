"""Options of `jobs/simulate.py`."""

from dataclasses import dataclass

from mindeye_dist.simulation.config import SimulatedDataset


@dataclass(frozen=True, kw_only=True)
class Simulate(SimulatedDataset):
    """Simulate subjects that see pictures, and write their shards."""

    out: str = "data/demo"
    """Folder or s3:// prefix to write to."""
    overwrite: bool = False
    """Replace a data set that is there."""
