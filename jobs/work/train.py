"""Training of one or both pipelines: checks first, then workers on Ray or in this process."""

import os
from collections.abc import Sequence
from dataclasses import replace

import torch.distributed as dist

from jobs.command import Printer, say, with_absolute_paths
from jobs.opening.demo_data import check_subject_data, simulate_demo
from jobs.options.train import Train
from jobs.recipes import recipe
from jobs.tracking.session import tracked
from jobs.worker import worker
from mindeye_dist.config import DataConfig, ExperimentConfig
from mindeye_dist.distributed import leave, rank
from mindeye_dist.runs.checkpoints import Checkpoints
from mindeye_dist.runs.start import check_run_dir, make_run_dir
from mindeye_dist.strict import check
from mindeye_dist.training.preemption import sigterm_notice


def lowlevel_config(name: str, config: ExperimentConfig) -> ExperimentConfig:
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


def train_without_ray(runs: Sequence[ExperimentConfig], options: Train) -> None:
    """Train in this process, one of several where torchrun says so."""
    alone = "WORLD_SIZE" not in os.environ
    if not alone:
        cuda = runs[0].compute.device == "cuda"
        dist.init_process_group("nccl" if cuda else "gloo")
    for config in runs:
        fewest = config.compute.min_workers
        check(fewest == 0, "compute.min_workers", fewest, "0 without Ray, which alone changes them")
    with sigterm_notice() as notice:
        for config in runs:
            make_run_dir(config, overwrite=options.overwrite)
            if rank() == 0:
                with tracked(config) as trackers:
                    worker(config, [Printer(), *trackers], notice=notice)
                say(f"checkpoints: {config.run_dir}/checkpoints")
            else:
                worker(config, notice=notice)
    if not alone:
        leave()


def run(options: Train) -> None:
    """Check what can be checked at once, and train."""
    runs = [with_absolute_paths(options.config)]
    say(f"checking the run folder {runs[0].run_dir} and the data {runs[0].data.url}")
    if options.with_lowlevel:
        runs.append(lowlevel_config(options.recipe, runs[0]))
    if options.config.data.url == DataConfig.url and not options.resume:
        simulate_demo(runs[0].data.url)
    for config in runs:
        begun = Checkpoints(config.run_dir, 1).folder.exists()
        if config is runs[0] or begun:  # the second of a run that goes on may be still to come
            check_run_dir(config, resume=options.resume, overwrite=options.overwrite)
        check_subject_data(config)
    if options.without_ray:
        train_without_ray(runs, options)
        return
    # Only here, so that --without-ray needs no Ray.
    from jobs.on_ray.launch import connect, launch

    connect(runs[0])
    for config in runs:
        make_run_dir(config, overwrite=options.overwrite)
        say(f"waiting for {config.compute.num_workers} worker(s) of Ray Train")
        launch(config)
        say(f"checkpoints: {config.run_dir}/checkpoints")
