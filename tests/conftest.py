"""Tiny real objects that tests share: a linear brain in real shards, and a config that fits it."""

import io
import math
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from s3fs import S3FileSystem

from jobs import recipes
from jobs.worker import worker
from mindeye_dist.config import DataConfig, ExperimentConfig, OptimizerConfig, TrainingConfig
from mindeye_dist.data.manifest import FORMAT, Manifest, Subject, Targets, write_manifest
from mindeye_dist.data.writer import write_shards
from mindeye_dist.model_config import (
    BackboneConfig,
    LowLevelConfig,
    ModelConfig,
    PriorConfig,
    ProjectorConfig,
)
from mindeye_dist.storage import npy
from mindeye_dist.storage.store import Store
from mindeye_dist.training.preemption import sigterm_notice
from tests.forked import run_ranks
from tests.s3 import server as s3_server

NUM_VOXELS, NUM_REPEATS, NUM_TOKENS, DIM = 24, 3, 5, 16
COUNTS = {"train": 23, "val": 7, "test": 9}
LATENTS = (4, 4, 4)
SHAPES = {
    "clip_tokens": (NUM_TOKENS, DIM),
    "latents": LATENTS,
    "feature_map": (NUM_TOKENS - 1, DIM),
}
VIEWS = {"": 0.0, ".1": 0.25, ".2": -0.25}
"""What is added to a target in the picture's own view and in its two augmented ones."""


def write_tiny_subject(url, num_voxels=NUM_VOXELS, counts=COUNTS):
    """Write a subject whose voxels are a random linear map of its clip_tokens, plus noise."""
    generator = np.random.default_rng(0)
    tuning = generator.standard_normal((NUM_TOKENS * DIM, num_voxels)) / np.sqrt(NUM_TOKENS * DIM)
    store = Store(str(url))
    splits, first = {}, 0
    target_splits = {kind: {} for kind in SHAPES}
    for split, count in counts.items():
        tokens = generator.standard_normal((count, NUM_TOKENS, DIM)).astype(np.float16)
        clean = tokens.reshape(count, -1) @ tuning
        noise = 0.5 * generator.standard_normal((count, NUM_REPEATS, num_voxels))
        voxels = (clean[:, None] + noise).astype(np.float16)
        keys = [f"sample{first + i:09d}" for i in range(count)]
        samples = [
            {
                "jpg": picture(first + i),
                "nsdgeneral.npy": npy.encode(voxels[i]),
                "num_uniques.npy": npy.encode(np.array(NUM_REPEATS - (i % 5 == 0))),
                "coco73k.npy": npy.encode(np.array(first + i)),
                "trial.npy": npy.encode(np.array(first + i)),
            }
            for i in range(count)
        ]
        splits[split] = write_shards(
            store, f"{split}/{split}_subj01", zip(keys, samples, strict=True), 10
        )
        arrays = {
            "clip_tokens": tokens,
            "latents": tokens.reshape(count, -1)[:, : math.prod(LATENTS)].reshape(count, *LATENTS),
            "feature_map": tokens[:, 1:],
        }
        for kind, rows in arrays.items():
            members = [
                {f"{kind}{n}.npy": npy.encode(row + np.float16(view)) for n, view in VIEWS.items()}
                for row in rows
            ]
            target_splits[kind][split] = write_shards(
                store, f"targets/{kind}/{split}/{split}_subj01", zip(keys, members, strict=True), 10
            )
        first += count
    manifest = Manifest(
        format=FORMAT,
        licence="random numbers",
        subjects={
            "subj01": Subject(
                num_voxels=num_voxels,
                num_repeats=NUM_REPEATS,
                rois={},
                ncsnr=(),
                truth="",
                truth_sha256="",
                splits=splits,
                targets={
                    f"tiny-{kind}": Targets(
                        kind=kind,
                        encoder="tiny",
                        digest="0" * 64,
                        shape=shape,
                        variants=len(VIEWS) - 1,
                        splits=target_splits[kind],
                    )
                    for kind, shape in SHAPES.items()
                },
            )
        },
    )
    write_manifest(store, manifest)
    return manifest


def write_random_subject(url, num_voxels, token_shape, count, encoded=None, precision=np.float16):
    """Write a subject of random numbers of any size, `count` training samples and two of each.

    `encoded` makes the bytes of a picture by number; by default they are tiny. Targets are of a
    precision.
    """
    generator = np.random.default_rng(0)
    store = Store(str(url))
    splits, targets = {}, {}
    for split, number in {"train": count, "val": 2, "test": 2}.items():
        keys = [f"{split}{i:09d}" for i in range(number)]
        samples = (
            {
                "jpg": (encoded or picture)(i),
                "nsdgeneral.npy": npy.encode(
                    generator.standard_normal((3, num_voxels)).astype(np.float16)
                ),
                "num_uniques.npy": npy.encode(np.array(3)),
            }
            for i in range(number)
        )
        tokens = (
            {"clip_tokens.npy": npy.encode(unit_tokens(generator, token_shape).astype(precision))}
            for _ in keys
        )
        splits[split] = write_shards(
            store, f"{split}/{split}_subj01", zip(keys, samples, strict=True)
        )
        targets[split] = write_shards(store, f"targets/{split}", zip(keys, tokens, strict=True))
    clip_tokens = Targets(
        kind="clip_tokens",
        encoder="random",
        digest="0" * 64,
        shape=token_shape,
        variants=0,
        splits=targets,
    )
    subject = Subject(
        num_voxels=num_voxels,
        num_repeats=3,
        rois={},
        ncsnr=(),
        truth="",
        truth_sha256="",
        splits=splits,
        targets={"random": clip_tokens},
    )
    write_manifest(store, Manifest(format=FORMAT, licence="random", subjects={"subj01": subject}))


def unit_tokens(generator, shape):
    """Return random tokens as CLIP's are scaled: token 0 has norm 1, the others about as much."""
    return (generator.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float16)


def picture(number):
    """Return a small JPEG of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (number * 7 % 256, 80, 160)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Keep tests from fighting over cores; sums then have one order, too."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory):
    """Return the folder of a tiny subject; read only."""
    folder = tmp_path_factory.mktemp("shards")
    write_tiny_subject(folder)
    return folder


@pytest.fixture(scope="session")
def write_subject():
    """Return `write_tiny_subject`."""
    return write_tiny_subject


@pytest.fixture
def tiny_config(tiny_shards, tmp_path):
    """Return a run on the tiny subject."""
    return tiny_run(tiny_shards, tmp_path / "run")


def tiny_run(url, run_dir):
    """Return a run on the tiny subject: 23 samples in batches of 6, so that batches span epochs."""
    config = ExperimentConfig(
        run_dir=str(run_dir),
        data=DataConfig(
            url=str(url),
            targets="tiny-clip_tokens",
            latents="tiny-latents",
            teacher="tiny-feature_map",
        ),
        model=ModelConfig(
            backbone=BackboneConfig(hidden=32, num_blocks=2),
            projector=ProjectorConfig(hidden=32),
            prior=PriorConfig(depth=1, heads=2, head_dim=8, feedforward_factor=2, timesteps=10),
            lowlevel=LowLevelConfig(
                hidden=32,
                num_blocks=2,
                map_channels=8,
                upsampler_channels=(8, 16),
                head_hidden=16,
            ),
        ),
        optimizer=OptimizerConfig(max_lr=1e-3, warmup_epochs=1.0),
        training=TrainingConfig(epochs=6, global_batch_size=6, validate_every_epochs=2),
    )
    return replace(config, tracking=replace(config.tracking, mlflow="off", every_steps=1))


def ray_environment(**more):
    """Return the environment of a program that starts its own Ray, beside which others may run.

    Without what this process was told of Ray; with a folder of its own, in which Ray's processes
    look for their cluster.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    own = {
        "RAY_TMPDIR": tempfile.mkdtemp(prefix="ray-"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # else tests beside them leave workers next to nothing
    }
    return {**kept, **own, **more}


def run_workers(configs, count, folder):
    """Run `worker` for each config in turn on `count` ranks."""
    run_ranks(train_each, configs, count=count, folder=Path(folder))


def train_each(configs):
    """Run `worker` for each config in turn."""
    for config in configs:
        worker(config)


def train_heeding_sigterm(config):
    """Run `worker` as a command line does."""
    with sigterm_notice() as notice:
        worker(config, notice=notice)


@pytest.fixture(scope="session")
def workers():
    """Return `run_workers`."""
    return run_workers


@pytest.fixture
def fresh_clients():
    """Forget S3 clients before and after: fsspec keeps them whatever the environment says later."""
    S3FileSystem.clear_instance_cache()
    yield
    S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    """Return the environment of a real S3 server with bucket `lab`, set in this process too."""
    with (
        s3_server(tmp_path_factory.mktemp("s3")) as environment,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in environment.items():
            patch.setenv(name, value)
        S3FileSystem.clear_instance_cache()
        yield environment
    S3FileSystem.clear_instance_cache()


def flags(config):
    """Return the flags that turn the demo's recipe into a config."""
    return recipes.config_flags("demo", config)
