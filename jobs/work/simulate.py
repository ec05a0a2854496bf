"""Simulation of subjects: pictures -> targets, brains, shards and the truth."""

import sys
from dataclasses import replace

from jobs.command import absolute_path, watched
from jobs.options.simulate import Simulate
from mindeye_dist.data.manifest import Manifest
from mindeye_dist.simulation.subject_shards import write_subjects
from mindeye_dist.storage.store import Store


def simulate(options: Simulate) -> Manifest:
    """Simulate and write everything."""
    return write_subjects(Store(options.out), options, overwrite=options.overwrite, watch=watched)


def run(options: Simulate) -> None:
    """Simulate."""
    simulate(replace(options, out=absolute_path(options.out)))
    print(f"wrote {absolute_path(options.out)}", file=sys.stderr)
