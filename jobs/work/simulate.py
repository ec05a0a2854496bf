"""Simulate subjects: from pictures to targets, voxels, shards and the manifest with the truth.

All voxels are simulated, and the manifest says so.
"""

import sys
from dataclasses import replace

from jobs.command import absolute_path, watched
from jobs.options.simulate import Simulate
from mindeye_dist.data.manifest import Manifest
from mindeye_dist.simulation.subject_shards import write_subjects
from mindeye_dist.storage.store import Store


def simulate(options: Simulate) -> Manifest:
    """Simulate the data set and write its shards, targets and manifest."""
    return write_subjects(Store(options.out), options, overwrite=options.overwrite, watch=watched)


def run(options: Simulate) -> None:
    """Simulate the data set at the absolute path of --out."""
    simulate(replace(options, out=absolute_path(options.out)))
    print(f"wrote {absolute_path(options.out)}", file=sys.stderr)
