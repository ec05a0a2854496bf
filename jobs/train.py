"""Train on a Ray cluster: `python jobs/train.py [--recipe NAME] [--data.url URL] ...`.

With no argument it is the demo: it simulates a subject first where there is none. Every knob of
mindeye_dist/config.py is a flag.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import torch
import torch.distributed as dist
import tyro
from safetensors.torch import load

from jobs.command import Printer, clear_errors, settle
from jobs.options.encoders import data_shapes
from jobs.recipes import recipe, recipe_flag
from jobs.simulate import Simulate, simulate
from jobs.tracking import TRACKING, tracked
from jobs.worker import worker
from mindeye_dist.config import DataConfig, ExperimentConfig
from mindeye_dist.data.manifest import MANIFEST, read_manifest
from mindeye_dist.distributed import barrier, leave, rank
from mindeye_dist.frozen.projection import ENCODER_FILE, SCENES_ENCODER
from mindeye_dist.runs.checkpoint_copies import Copies
from mindeye_dist.runs.checkpoints import Checkpoints
from mindeye_dist.runs.folder import JOURNAL, SUMMARY, TRACKED_RUN
from mindeye_dist.runs.same_run import check_same_settings
from mindeye_dist.storage.store import Store
from mindeye_dist.strict import check
from mindeye_dist.training.preemption import heeding_sigterm


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a decoder from voxels to clip_tokens on a Ray cluster."""

    recipe: str = "demo"
    """Whole run to start from (jobs/recipes.py); the other flags change it."""
    resume: bool = False
    """Go on from the run folder's newest good checkpoint."""
    overwrite: bool = False
    """Delete what an earlier run left in the run folder."""
    with_lowlevel: bool = False
    """Train RECIPE-lowlevel after it, on the same data and workers, in RUN_DIR-lowlevel."""
    without_ray: bool = False
    """Train in this very process; under torchrun, in each of its processes."""
    config: Annotated[ExperimentConfig, tyro.conf.arg(name="")] = field(
        default_factory=ExperimentConfig
    )


def main(arguments: list[str]) -> None:
    """Parse the command line, check what can be checked at once, and train."""
    with clear_errors():
        name = recipe_flag(arguments, Train.recipe)
        options = tyro.cli(
            Train,
            default=Train(recipe=name, config=recipe(name)),
            args=arguments,
            description=__doc__,
        )
        runs = [settle(options.config)]
        if options.with_lowlevel:
            runs.append(lowlevel_beside(name, runs[0]))
        if options.config.data.url == DataConfig.url and not options.resume:
            simulate_demo(runs[0].data.url)
        for config in runs:
            begun = Checkpoints(config.run_dir, 1).folder.exists()
            if config is runs[0] or begun:  # the second of a run that goes on may be still to come
                check_run_dir(config, options)
            check_data(config)
        if options.without_ray:
            run_here(runs, options)
            return
        # Only here, so that --without-ray needs no Ray.
        from jobs.on_ray.launch import connect, launch

        connect(runs[0])
        for config in runs:
            make_run_dir(config, options)
            launch(config)
            print(f"checkpoints: {config.run_dir}/checkpoints", file=sys.stderr)


def lowlevel_beside(name: str, config: ExperimentConfig) -> ExperimentConfig:
    """Return the low-level run that goes with a high-level one: same data, machines, tracking."""
    beside = recipe(f"{name}-lowlevel")
    data = replace(beside.data, url=config.data.url, subject=config.data.subject)
    copy_to = config.checkpoint.copy_to
    return replace(
        beside,
        run_dir=f"{config.run_dir}-lowlevel",
        data=data,
        checkpoint=replace(beside.checkpoint, copy_to=copy_to and f"{copy_to}-lowlevel"),
        compute=config.compute,
        tracking=config.tracking,
    )


def check_data(config: ExperimentConfig) -> None:
    """See that the data are there: subject, and targets unless they are computed.

    Raises:
        DataError: they are not.
    """
    manifest = read_manifest(Store(config.data.url))
    manifest.subject(config.data.subject)
    if not config.data.computed.encoder:
        data_shapes(manifest, config)


def simulate_demo(url: str) -> None:
    """Make the demo's subject where there is none, but not in each of torchrun's processes."""
    if "RANK" in os.environ:
        return
    store = Store(url)
    if not store.exists(MANIFEST):
        print(f"no data at {url}: simulating a subject first", file=sys.stderr)
        simulate(Simulate(out=url))
    elif store.exists(ENCODER_FILE) and not same_tensors(store.read(ENCODER_FILE)):
        print(
            f"{url}: has other tokens than this version's demo, so that the generator that comes "
            "with it will not draw them; delete the folder to simulate it anew",
            file=sys.stderr,
        )


def same_tensors(encoder: bytes) -> bool:
    """Return whether a file's tensors are those of the demo's encoder; its bytes may differ."""
    own, known = load(encoder), load(SCENES_ENCODER.read_bytes())
    return own.keys() == known.keys() and all(torch.equal(own[k], known[k]) for k in own)


def check_run_dir(config: ExperimentConfig, options: Train) -> None:
    """See that the run folder is new, or that its run is meant to go on or to be deleted.

    Raises:
        ValueError: it holds a run and neither is asked for, or there is none to go on with.
    """
    if "://" in config.run_dir:
        raise ValueError(
            f"run_dir: got {config.run_dir!r}, expected a folder that all workers share"
        )
    checkpoints, copy_to = Checkpoints(config.run_dir, 1), config.checkpoint.copy_to
    if copy_to and os.environ.get("RANK", "0") == "0":  # others would delete each other's trial
        Copies(copy_to).check_writable()
    copied = bool(copy_to and Copies(copy_to).names())
    if options.resume:
        newest = checkpoints.newest()
        if newest is None and not copied:
            raise ValueError(f"--resume: no good checkpoint in {checkpoints.folder}")
        if newest is not None:
            check_same_settings(newest, config)
        return
    if options.overwrite:
        return
    if checkpoints.folder.exists():
        raise ValueError(
            f"run_dir: {config.run_dir} holds a run; --resume goes on with it, "
            "--overwrite deletes it, --run-dir names another folder"
        )
    if copied:
        raise ValueError(
            f"checkpoint.copy_to: {copy_to} holds a run; --resume goes on with it, "
            "--overwrite deletes it"
        )


def make_run_dir(config: ExperimentConfig, options: Train) -> None:
    """Make the run folder, without what an earlier run left in it where that is to be deleted.

    Called on all ranks: the first one does it before any of them writes there.
    """
    if rank() == 0:
        Path(config.run_dir).mkdir(parents=True, exist_ok=True)
        if options.overwrite:
            empty(config)
    barrier()


def empty(config: ExperimentConfig) -> None:
    """Delete what an earlier run left in the run folder, and the copies of its checkpoints."""
    run_dir = Path(config.run_dir)
    for name in ("checkpoints", "ray"):
        shutil.rmtree(run_dir / name, ignore_errors=True)
    if config.checkpoint.copy_to:
        copies = Copies(config.checkpoint.copy_to)
        copies.delete(copies.names())
    for name in (JOURNAL, SUMMARY, TRACKED_RUN, TRACKING, "report.json", "report.html"):
        (run_dir / name).unlink(missing_ok=True)


def run_here(runs: Sequence[ExperimentConfig], options: Train) -> None:
    """Train in this process, one of several where torchrun says so."""
    alone = "WORLD_SIZE" not in os.environ
    if not alone:
        cuda = runs[0].compute.device == "cuda"
        dist.init_process_group("nccl" if cuda else "gloo")
    for config in runs:
        fewest = config.compute.min_workers
        check(fewest == 0, "compute.min_workers", fewest, "0 without Ray, which alone changes them")
    with heeding_sigterm() as notice:
        for config in runs:
            make_run_dir(config, options)
            if rank() == 0:
                with tracked(config) as trackers:
                    worker(config, [Printer(), *trackers], notice=notice)
                print(f"checkpoints: {config.run_dir}/checkpoints", file=sys.stderr)
            else:
                worker(config, notice=notice)
    if not alone:
        leave()


if __name__ == "__main__":
    main(sys.argv[1:])
