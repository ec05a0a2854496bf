"""Simulate subjects: pictures -> targets -> brains -> shards, manifest, targets and the truth.

`python jobs/simulate.py` makes the demo's subject from the project's own rendered scenes;
`--images` takes a folder or tar of pictures instead, `--preset nsd-subj01` the size and noise of a
subject of NSD. No brain is harmed: the voxels are simulated, and the manifest says so.
"""

import sys
from dataclasses import dataclass, replace

import tyro

from jobs.command import absolute_path, clear_errors, watched
from mindeye_dist.data.manifest import Manifest
from mindeye_dist.simulation.config import SimulatedDataset
from mindeye_dist.simulation.subject_shards import write_subjects
from mindeye_dist.storage.store import Store


@dataclass(frozen=True, kw_only=True)
class Simulate(SimulatedDataset):
    """Simulate subjects that see pictures, and write their shards."""

    out: str = "data/demo"
    """Folder or s3:// prefix to write to."""
    overwrite: bool = False
    """Replace a data set that is there."""


def simulate(options: Simulate) -> Manifest:
    """Simulate and write everything."""
    return write_subjects(Store(options.out), options, overwrite=options.overwrite, watch=watched)


def main(arguments: list[str]) -> None:
    """Parse the command line and simulate."""
    with clear_errors():
        options = tyro.cli(Simulate, args=arguments, description=__doc__)
        simulate(replace(options, out=absolute_path(options.out)))
        print(f"wrote {absolute_path(options.out)}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
