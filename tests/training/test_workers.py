"""Nothing depends on the number of workers, the backend or the ZeRO stage.

Oracle: the one-process run of the torch backend, whose losses and final weights all others must
    repeat.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.worker import worker
from mindeye_dist.decoding.predictor import Predictor
from mindeye_dist.runs.checkpoints import Checkpoints, read_weights
from mindeye_dist.runs.journal import read_journal
from mindeye_dist.strict import override

NO_DROPOUT = {
    "model.backbone.input_dropout": 0.0,
    "model.backbone.block_dropout": 0.0,
}


def curve(run_dir):
    """Return the training losses and the validation's of every step, as rows."""
    rows = read_journal(run_dir)
    names = ("contrastive", "prior", "latents", "total")
    return [
        [row[f"{part}/{name}"] for name in names if f"{part}/{name}" in row]
        for row in rows
        for part in ("train", "val")
        if f"{part}/total" in row
    ]


def weights(run_dir):
    return read_weights(Checkpoints(run_dir, 1).newest())


@pytest.fixture
def plain(tiny_config):
    """Return the oracle's config, at least 20 steps without dropout, and run it."""
    config = override(tiny_config, NO_DROPOUT)
    worker(config)
    assert len(read_journal(config.run_dir)) >= 20
    return config


def variant(config, name, **changes):
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return override(config, {"run_dir": f"{config.run_dir}-{name}", **dotted})


def sharded(config, name, stage, count=2, **changes):
    """Return the config on `count` DeepSpeed workers."""
    compute = {"num_workers": count, "backend": "deepspeed", "zero_stage": stage}
    return variant(config, name, **{f"compute__{k}": v for k, v in compute.items()}, **changes)


def assert_same(config, other, rtol, atol):
    np.testing.assert_allclose(curve(other.run_dir), curve(config.run_dir), rtol=rtol)
    expected = weights(config.run_dir)
    for name, weight in weights(other.run_dir).items():
        torch.testing.assert_close(weight, expected[name], rtol=rtol, atol=atol)


@pytest.mark.processes
def test_two_torch_workers(plain, workers, tmp_path):
    other = variant(plain, "two", compute__num_workers=2)
    # Five samples over two workers, so that ranks have parts of different size.
    odd = variant(plain, "odd", training__global_batch_size=5)
    odd_two = variant(plain, "odd-two", training__global_batch_size=5, compute__num_workers=2)
    worker(odd)
    parts = variant(other, "parts", training__max_micro_batch_size=2)
    workers([other, odd_two, parts], 2, tmp_path)
    assert_same(plain, other, 1e-4, 1e-5)
    assert_same(plain, parts, 1e-4, 1e-5)
    assert_same(odd, odd_two, 1e-4, 1e-5)


@pytest.mark.processes
def test_the_low_level_pipeline_on_two_workers(tiny_config, workers, tmp_path):
    """The teacher's map is compared over all workers, one of which has no part of the last of val.

    Losses only: Adam makes steps of the rounding in biases before norms, whose gradient is 0.
    """
    changes = {"pipeline": "lowlevel", "training.global_batch_size": 6, "training.epochs": 3}
    no_dropout = {"model.lowlevel.input_dropout": 0.0, "model.lowlevel.block_dropout": 0.0}
    config = override(tiny_config, {**changes, **no_dropout})
    worker(config)
    two = variant(config, "two", compute__num_workers=2)
    parts = variant(two, "parts", training__max_micro_batch_size=2)
    workers([two, parts], 2, tmp_path)
    for other in (two, parts):
        np.testing.assert_allclose(curve(other.run_dir), curve(config.run_dir), rtol=1e-4)


def test_accumulation_keeps_all_negatives(plain):
    other = variant(plain, "parts", training__max_micro_batch_size=2)
    worker(other)
    assert_same(plain, other, 1e-4, 1e-5)


def test_accumulation_repeats_its_dropout(tiny_config):
    """With dropout on, the second pass of a part draws the first pass's masks: runs repeat."""
    config = override(tiny_config, {"training.max_micro_batch_size": 3, "training.epochs": 1})
    again = variant(config, "again")
    worker(config)
    worker(again)
    assert curve(config.run_dir) == curve(again.run_dir)


@pytest.mark.deepspeed
@pytest.mark.parametrize("count", [1, 2])
def test_deepspeed_zero_stages(plain, workers, tmp_path, count):
    """Whole batches, and batches of five in parts, uneven over two workers."""
    whole = [sharded(plain, f"zero{stage}", stage, count) for stage in (0, 1, 2, 3)]
    uneven = {"training__global_batch_size": 5, "training__epochs": 2}
    odd = variant(plain, "odd", **uneven)
    uneven["training__max_micro_batch_size"] = 2
    parts = [sharded(plain, f"parts{stage}", stage, count, **uneven) for stage in (1, 3)]
    worker(odd)
    workers([*whole, *parts], count, tmp_path)
    for other in whole:
        assert_same(plain, other, 1e-4, 1e-5)
    for other in parts:
        assert_same(odd, other, 1e-4, 1e-5)


@pytest.mark.deepspeed
def test_clipping_is_of_the_whole_gradient(tiny_config, workers, tmp_path):
    """A norm small enough to bind at every step; shards must agree on it."""
    config = override(tiny_config, {**NO_DROPOUT, "optimizer.clip_norm": 0.1, "training.epochs": 3})
    others = [sharded(config, f"zero{stage}", stage) for stage in (0, 2, 3)]
    worker(config)
    workers(others, 2, tmp_path)
    for other in others:
        assert_same(config, other, 1e-4, 1e-5)
    free = variant(config, "free", optimizer__clip_norm=0.0)
    worker(free)
    assert curve(free.run_dir)[-1] != pytest.approx(curve(config.run_dir)[-1], rel=1e-4)


@pytest.mark.deepspeed
def test_bf16_agrees_between_backends(tiny_config, workers, tmp_path):
    """bf16 has 8 bits of mantissa: losses agree to a few parts in a hundred."""
    config = override(
        tiny_config, {**NO_DROPOUT, "compute.precision": "bf16", "training.epochs": 2}
    )
    others = [sharded(config, f"zero{stage}", stage) for stage in (0, 2, 3)]
    worker(config)
    workers(others, 2, tmp_path)
    for other in others:
        np.testing.assert_allclose(curve(other.run_dir), curve(config.run_dir), rtol=2e-2)


@pytest.mark.deepspeed
def test_bf16_states_are_saved_reloaded_and_near(tiny_config, workers, tmp_path):
    """Oracle: the run with float32 states; eight bits of mantissa leave a few per cent."""
    config = override(
        tiny_config, {**NO_DROPOUT, "compute.precision": "bf16", "training.epochs": 2}
    )
    low = [
        sharded(config, f"low{stage}", stage, compute__states="bf16", compute__precision="bf16")
        for stage in (1, 2, 3)
    ]
    worker(config)
    workers(low, 2, tmp_path)
    voxels = np.random.default_rng(0).standard_normal((3, 24)).astype(np.float32)
    expected = Predictor(Checkpoints(config.run_dir, 1).newest()).embed(voxels)
    for other in low:
        np.testing.assert_allclose(curve(other.run_dir), curve(config.run_dir), rtol=0.15)
        assert {w.dtype for w in weights(other.run_dir).values()} == {torch.bfloat16}
        embedded = Predictor(Checkpoints(other.run_dir, 1).newest()).embed(voxels)
        assert (embedded * expected).sum(axis=1).min() > 0.99
    longer = [override(other, {"training.epochs": 2, "checkpoint.keep": 1}) for other in low]
    workers(longer, 2, tmp_path)  # at its end already: it loads what was saved


@pytest.mark.deepspeed
def test_offload_gives_the_same_numbers(tiny_config, workers, tmp_path):
    """Oracle: the same stage without offload; also resumed from each other's checkpoints."""
    config = override(
        tiny_config,
        {**NO_DROPOUT, "training.epochs": 3, "checkpoint.every_steps": 5, "checkpoint.keep": 9},
    )
    plain, off = (
        sharded(config, name, 2, compute__offload_optimizer=name == "off") for name in ("in", "off")
    )
    workers([plain, off], 2, tmp_path)
    assert_same(plain, off, 1e-4, 1e-5)
    resumed = sharded(config, "on", 2, compute__offload_optimizer=True)
    source = Path(plain.run_dir) / "checkpoints" / "step-00000005"
    shutil.copytree(source, Path(resumed.run_dir) / "checkpoints" / source.name)
    workers([resumed], 2, tmp_path)
    expected = weights(plain.run_dir)
    for name, weight in weights(resumed.run_dir).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-5)
