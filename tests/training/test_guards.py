"""Guards: what is not finite, not alike on all ranks, or not counted is found and named.

Oracles: what was put in; NumPy; and, for what is left out, a run in which that step is left out by
hand.
"""

import re
import shutil
from copy import copy
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from chaos.numeric import FAULTS, Fault, strike_all
from jobs.worker import worker
from mindeye_dist.data.loader import TrainLoader
from mindeye_dist.errors import MiscountError, NonFiniteError
from mindeye_dist.runs.checkpoints import Checkpoints, read_progress
from mindeye_dist.runs.journal import read_journal, read_summary
from mindeye_dist.strict import override
from mindeye_dist.training.backends.torch_backend import TorchBackend
from mindeye_dist.training.guards import (
    Ledger,
    check_ranks,
    describe_divergence,
    poison_if_non_finite,
    weight_checksum,
)
from tests.broken_shards import flip, member_offset, open_loader
from tests.training.test_workers import NO_DROPOUT, assert_same, sharded, variant

BAD = Fault("nan voxel", step=7, place=2)
SKIP = {"training.on_non_finite": "skip"}


@pytest.mark.parametrize("value", [0.3, -7e30, 1e-40])
def test_a_finite_loss_is_as_it_was(value):
    weight = torch.tensor(value, requires_grad=True)
    plain, guarded = weight * 3, poison_if_non_finite(weight * 3)
    assert torch.equal(plain, guarded)
    (expected,), (gradient,) = (
        torch.autograd.grad(plain, weight),
        torch.autograd.grad(guarded, weight),
    )
    assert torch.equal(gradient, expected)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_loss_that_is_not_finite_infects_every_gradient(value):
    """Plainly, an infinite addend leaves the gradient finite."""
    weights = torch.ones(4, requires_grad=True)
    (plain,) = torch.autograd.grad(weights.sum() + value, weights)
    assert torch.isfinite(plain).all()
    (gradient,) = torch.autograd.grad(poison_if_non_finite(weights.sum() + value), weights)
    assert torch.isnan(gradient).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_every_bit_counts_in_a_checksum(dtype):
    """Oracle: NumPy's sum of the bits."""
    weight = torch.randn(3, 2, dtype=dtype).T
    size = weight.element_size()
    expected = sum(
        np.frombuffer(weight.contiguous().view(torch.uint8).numpy().tobytes(), f"<i{size}").tolist()
    )
    own = int(weight_checksum(weight))
    assert (own - expected) % 2**64 == 0
    for bit in range(8 * size):
        mask = torch.from_numpy(np.array(1 << bit, f"<u{size}").view(f"<i{size}"))
        other = weight.clone()
        other.view(mask.dtype)[1, 2] ^= mask
        assert int(weight_checksum(other)) != own


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1, 2], [1, 2], [1, 2]], ""),
        ([[1, 2], [1, 3]], "the 2 ranks hold 2 different sets of weights: b"),
        ([[1, 2], [1, 2], [0, 2]], "ranks [2] hold other weights than the other 2: a"),
        ([[1, 2], [0, 3], [1, 2]], "ranks [1] hold other weights than the other 2: a, b"),
        ([[1, 2], [0, 3], [4, 2]], "the 3 ranks hold 3 different sets of weights: a, b"),
    ],
)
def test_ranks_that_differ(rows, expected):
    assert describe_divergence(torch.tensor(rows), ["a", "b"]) == expected


def test_one_rank_agrees_with_itself():
    check_ranks([("a", torch.ones(2))], 1)


@pytest.fixture
def spoiled():
    """Return what puts a fault into the runs of a `with` block."""
    return lambda fault: FAULTS[fault.kind](fault, TorchBackend)


def keys_of(folder, config, step):
    loader = open_loader(folder, batch=6, seed=config.training.seed)
    return [loader.dataset.samples[number].key for number in loader.order(step)]


@pytest.mark.parametrize("parts", [4096, 2])
@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("nan voxel", r"the loss is nan \(not finite: voxels of {key}\)"),
        ("inf target", r"the loss is \S+ \(not finite: clip_tokens of {key}\)"),
        ("nan gradient", "the gradient is not finite"),
    ],
)
def test_stop_names_step_what_and_samples(
    tiny_shards, tiny_config, spoiled, tmp_path, kind, what, parts
):
    config = override(tiny_config, {"training.max_micro_batch_size": parts})
    keys = keys_of(tiny_shards, config, BAD.step)
    step = BAD.step * (3 if kind == "nan gradient" and parts == 2 else 1)  # of backward passes
    expected = rf"^step 7: {what.format(key=keys[2])}; the batch was {', '.join(keys)}$"
    with spoiled(replace(BAD, kind=kind, step=step)), pytest.raises(NonFiniteError, match=expected):
        worker(config)
    assert not (Path(config.run_dir) / "checkpoints").exists()


def state(config):
    newest = Checkpoints(config.run_dir, 1).newest()
    files = sorted(newest.glob("*.safetensors"))
    return {file.name: file.read_bytes() for file in files}, read_progress(newest)


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_skip_is_the_run_without_that_step(tiny_config, spoiled, monkeypatch, clip):
    """Oracle: the same run in which the optimizer is not called at that step; to the bit."""
    config = override(tiny_config, {**SKIP, "optimizer.clip_norm": clip})
    with spoiled(BAD):
        worker(config)
    by_hand = override(config, {"run_dir": f"{config.run_dir}-by-hand"})
    step, steps = TorchBackend.step, count()

    def all_but_one(self, lr, momentum):
        if next(steps) != BAD.step:
            return step(self, lr, momentum)
        self._optimizer.zero_grad()
        return True

    monkeypatch.setattr(TorchBackend, "step", all_but_one)
    worker(by_hand)
    (ours, place), (theirs, _) = state(config), state(by_hand)
    assert ours == theirs
    assert place.skipped == 1
    rows = {row["step"]: row for row in read_journal(config.run_dir) if "train/lr" in row}
    assert [step for step, row in rows.items() if "train/total" not in row] == [BAD.step + 1]
    skipped = [row["train/non_finite_steps"] for row in rows.values()]
    assert skipped == [0] * BAD.step + [1] * (len(rows) - BAD.step)
    assert read_summary(config.run_dir)["non_finite_steps"] == 1


def test_a_run_that_skipped_is_resumed_to_the_bit(tiny_config, spoiled):
    """Oracle: the undisturbed run; Adam's own count of steps is one less than the run's."""
    config = override(tiny_config, {**SKIP, "checkpoint.every_steps": 10})
    with spoiled(BAD):
        worker(config)
    stopped = override(config, {"run_dir": f"{config.run_dir}-stopped"})

    def stop(row):
        if row["step"] == 13:
            raise KeyboardInterrupt

    with spoiled(BAD), pytest.raises(KeyboardInterrupt):
        worker(stopped, [stop])
    assert read_progress(Checkpoints(stopped.run_dir, 1).newest()).skipped == 1
    worker(stopped)
    assert state(stopped) == state(config)


def test_a_stopped_run_may_be_told_to_skip(tiny_config, spoiled):
    config = override(tiny_config, {"checkpoint.every_steps": 5})
    with spoiled(BAD):
        with pytest.raises(NonFiniteError):
            worker(config)
        worker(override(config, SKIP))
    assert read_summary(config.run_dir)["non_finite_steps"] == 1


def test_one_more_than_the_limit_stops(tiny_config):
    """Weights that have blown up make every batch's loss NaN."""
    changes = {"optimizer.max_lr": 1e30, "optimizer.start_factor": 1.0}
    config = override(tiny_config, {**SKIP, **changes, "training.max_non_finite": 3})
    with pytest.raises(NonFiniteError, match="3 batches were skipped before, training.max_non_fin"):
        worker(config)


@pytest.mark.processes
def test_a_flipped_bit_is_found_within_the_interval(tiny_config, tmp_path):
    """In the lowest bit of one weight, on two and three ranks; a clean run raises nothing."""
    config = override(tiny_config, {"training.epochs": 3, "training.check_ranks_every": 5})
    faults = [Fault("flipped bit", step=6, rank=1, bit=0), Fault("flipped bit", step=99)]
    for ranks, who in ((2, "the 2 ranks hold 2 different"), (3, "ranks [1] hold other weights")):
        folder = tmp_path / f"{ranks}"
        folder.mkdir()
        one = override(config, {"run_dir": f"{config.run_dir}-{ranks}"})
        flipped, clean = strike_all([(one, fault) for fault in faults], ranks, folder)
        for found in flipped:
            assert found["error"] == "DivergedError"
            assert re.match(rf"step ([789]|10): {re.escape(who)}", found["message"])
        assert all(found["error"] == "" for found in clean)


@pytest.mark.processes
def test_weights_that_differ_are_never_saved(tiny_config, tmp_path):
    """Or the run would go on from them, alike on all ranks."""
    changes = {"training.check_ranks_every": 1000, "checkpoint.every_steps": 4}
    config = override(tiny_config, {**changes, "training.validate_every_epochs": 100})
    (found,) = strike_all([(config, Fault("flipped bit", step=5, rank=1))], 2, tmp_path)
    assert {each["error"] for each in found} == {"DivergedError"}
    newest = Checkpoints(f"{config.run_dir}-0", 1).newest()
    assert read_progress(newest).step == 4


@pytest.mark.processes
def test_what_is_not_finite_on_one_rank_stops_all_alike(tiny_config, tmp_path):
    faults = [Fault(kind, step=7, rank=1) for kind in FAULTS if kind != "flipped bit"]
    for found in strike_all([(tiny_config, fault) for fault in faults], 2, tmp_path):
        assert found[0] == found[1]
        assert found[0]["error"] == "NonFiniteError"
        assert found[0]["message"].startswith("step 7: ")


@pytest.mark.deepspeed
def test_deepspeed_leaves_out_what_is_not_finite(tiny_config, spoiled, tmp_path):
    """Every ZeRO stage, from one rank's NaN. Oracle: the one-process run that leaves it out."""
    config = override(tiny_config, {**NO_DROPOUT, **SKIP, "training.epochs": 3})
    with spoiled(replace(BAD, place=3)):
        worker(config)
    fault = replace(BAD, rank=1, place=0)  # row 0 of the second rank is row 3 of the batch
    others = [sharded(config, f"zero{stage}", stage) for stage in (0, 1, 2, 3)]
    results = strike_all([(other, fault) for other in others], 2, tmp_path)
    for number, (other, found) in enumerate(zip(others, results, strict=True)):
        assert [each["error"] for each in found] == ["", ""], found
        ran = override(other, {"run_dir": f"{other.run_dir}-{number}"})
        assert_same(config, ran, 1e-4, 1e-5)
        assert read_summary(ran.run_dir)["non_finite_steps"] == 1


@pytest.mark.deepspeed
def test_deepspeed_stops_before_a_gradient_reaches_the_weights(tiny_config, tmp_path):
    """A weight's gradient alone, on one rank, in float32 and in bf16; all ranks say so alike."""
    half = {"compute__precision": "bf16", "compute__states": "bf16"}
    stages = [(stage, {}) for stage in (0, 1, 2, 3)] + [(stage, half) for stage in (1, 2, 3)]
    cases = [
        (
            sharded(tiny_config, f"zero{stage}", stage, **changes),
            Fault("nan gradient", step=5, rank=1, place=stage),
        )
        for stage, changes in stages
    ]
    for found in strike_all(cases, 2, tmp_path):
        assert found[0] == found[1]
        assert found[0]["message"].startswith("step 5: the gradient is not finite; the batch was ")


def deliver(loader, steps, world_size=1, first=0):
    """Let a ledger of one rank take in every rank's batches."""
    ledger = Ledger(loader, first, torch.device("cpu"))
    for step in steps:
        parts = [loader.batch(step, rank, world_size) for rank in range(world_size)]
        for part in parts[:-1]:
            count_only(ledger, part)
        ledger.add(parts[-1])
    return ledger


def count_only(ledger, part):
    first = part.step * part.global_size + part.start
    for i, key in enumerate(part.keys):
        ledger._seen[(first + i) // 23][ledger._numbers[key]] += 1


@pytest.mark.parametrize(("batch", "first"), [(6, 0), (6, 5), (23, 0), (1, 30), (5, 2)])
def test_whole_epochs_are_counted(tiny_shards, batch, first):
    loader = open_loader(tiny_shards, batch=batch)
    last = 4 * 23 // batch
    ledger = deliver(loader, range(first, last), first=first)
    assert ledger.epochs == last * batch // 23 - first * batch // 23


def test_the_parts_of_ranks_add_up(tiny_shards):
    assert deliver(open_loader(tiny_shards), range(12), world_size=4).epochs == 3


@pytest.mark.parametrize(
    ("steps", "first", "message"),
    [
        ([0, 1, 3], 0, r"epoch 1: 17 samples were delivered, expected 23; too seldom: 6 \(sample"),
        ([0, 1, 1, 2, 3], 0, r"29 samples .*; too seldom: 0; too often: 6 \(sample"),
        ([1, 2, 3], 0, "17 samples were delivered, expected 23"),
        ([0, 1, 2, 3], 1, "23 samples were delivered, expected 17"),
    ],
)
def test_steps_left_out_or_taken_twice(tiny_shards, steps, first, message):
    with pytest.raises(MiscountError, match=message):
        deliver(open_loader(tiny_shards), steps, first=first)


def test_ranks_that_read_the_same_rows(tiny_shards):
    """The number is right, the samples are not."""
    loader = open_loader(tiny_shards)
    batch = loader.batch

    def always_rank_0(step, rank, world_size):
        own = batch(step, rank, world_size)
        return replace(batch(step, 0, world_size), start=own.start)

    loader.batch = always_rank_0
    with pytest.raises(MiscountError, match="23 samples were delivered, expected 23; too seldom"):
        deliver(loader, range(4), world_size=2)


def test_an_order_that_is_no_permutation(tiny_shards):
    loader = open_loader(tiny_shards)
    order = loader.order
    loader.order = lambda step: np.where(order(step) == 4, 5, order(step))
    names = [loader.dataset.samples[number].key for number in (4, 5)]
    message = rf"too seldom: 1 \({names[0]}\); too often: 1 \({names[1]}\)"
    with pytest.raises(MiscountError, match=message):
        deliver(loader, range(4))


def test_a_run_counts_its_epochs(tiny_config):
    worker(override(tiny_config, {"training.epochs": 3}))
    assert read_summary(tiny_config.run_dir)["epochs_counted"] == 2  # the last one lacks 3 of 69


def test_a_run_that_passes_over_bad_samples(tiny_shards, tiny_config, tmp_path, monkeypatch):
    """Oracle: the run on whole shards in whose order the others stand; to the bit."""
    folder = shutil.copytree(tiny_shards, tmp_path / "broken")
    for number in (4, 9):
        path, _, member = member_offset(folder, "nsdgeneral.npy", number)
        flip(path, member)
    config = override(tiny_config, {"data.url": str(folder), "data.on_bad_sample": "skip"})
    worker(config)
    rows = [row["train/bad_samples"] for row in read_journal(config.run_dir) if "train/lr" in row]
    assert rows[0] <= rows[-1] == read_summary(config.run_dir)["bad_samples"] == 2
    assert read_summary(config.run_dir)["epochs_counted"] == 6

    order = TrainLoader.order

    def changed(self, step):
        whole = copy(self)
        whole.order = lambda step: order(self, step)
        numbers = whole.order(step)
        for position in np.flatnonzero(np.isin(numbers, (4, 9))).tolist():
            drawn = whole.replacements(step, position).tolist()
            numbers[position] = next(number for number in drawn if number not in (4, 9))
        return numbers

    monkeypatch.setattr(TrainLoader, "order", changed)
    monkeypatch.setattr(Ledger, "add", lambda self, batch: None)  # no permutation any more
    by_hand = override(tiny_config, {"run_dir": f"{tiny_config.run_dir}-by-hand"})
    worker(by_hand)
    assert state(config)[0] == state(by_hand)[0]


@pytest.mark.processes
def test_bad_samples_are_counted_over_ranks(tiny_shards, tiny_config, workers, tmp_path):
    """Oracle: the one-process run: the same weights, and the same number in every row."""
    folder = shutil.copytree(tiny_shards, tmp_path / "broken")
    for number in (4, 9, 15):
        path, _, member = member_offset(folder, "nsdgeneral.npy", number)
        flip(path, member)
    changes = {**NO_DROPOUT, "data.url": str(folder), "data.on_bad_sample": "skip"}
    config = override(tiny_config, changes)
    worker(config)
    other = variant(config, "two", compute__num_workers=2)
    workers([other], 2, tmp_path)
    assert_same(config, other, 1e-4, 1e-5)
    ours, theirs = (
        [row.get("train/bad_samples") for row in read_journal(c.run_dir)] for c in (config, other)
    )
    assert ours == theirs
    assert ours[-2] == 3
