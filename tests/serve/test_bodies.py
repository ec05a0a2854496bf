"""Bodies -> voxels. Oracle: numpy's own np.save and np.load(allow_pickle=False), and np.mean."""

import io
import json
import time
from contextlib import suppress

import numpy as np
import pytest

from serve.bodies import RefusedError, read_brain, read_brains, read_npy
from serve.settings import Limits
from tests.serve.wire import JSON, NPY, saved

LIMITS = Limits()
MUTATIONS = 5000


def loaded(body):
    return np.load(io.BytesIO(body), allow_pickle=False)


def random_array(generator, most_dimensions=3):
    shape = generator.integers(1, 9, size=generator.integers(1, most_dimensions + 1))
    dtype = generator.choice([np.float16, np.float32, np.float64])
    order = generator.choice(["C", "F"])
    return np.asarray(generator.standard_normal(shape), dtype, order=order)


@pytest.mark.parametrize("seed", range(200))
def test_files_are_read_as_numpy_reads_them(seed):
    generator = np.random.default_rng(seed)
    array = random_array(generator)
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, (1 + seed % 2, 0), allow_pickle=False)
    found, expected = read_npy(buffer.getvalue()), loaded(buffer.getvalue())
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("repeats", [1, 3, 32])
def test_repeats_are_averaged(dtype, order, repeats):
    generator = np.random.default_rng(repeats)
    array = np.asarray(generator.standard_normal((repeats, 50)), dtype, order=order)
    expected = np.mean(array, axis=0, dtype=np.float64).astype(np.float32)
    for body, kind in (
        (saved(array), NPY),
        (saved(array), "application/octet-stream; a=b"),
        (json.dumps({"voxels": array.tolist()}).encode(), JSON),
    ):
        found = read_brain(body, kind, LIMITS)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
    (single,) = read_brains(saved(array[None]), NPY, LIMITS)
    np.testing.assert_array_equal(single, expected)


def test_half_precision_does_not_overflow_in_sums():
    """Oracle: 32 x 60,000 is beyond float16, the mean is not."""
    array = np.full((32, 4), 60_000, np.float16)
    found = read_brain(saved(array), NPY, Limits(magnitude=1e5))
    np.testing.assert_array_equal(found, np.full(4, 60_000, np.float32))


def test_brains_of_a_batch_come_in_order():
    brains = np.random.default_rng(0).standard_normal((7, 2, 5)).astype(np.float32)
    for body, kind in (
        (saved(brains), NPY),
        (json.dumps({"voxels": brains.tolist()}).encode(), JSON),
    ):
        np.testing.assert_allclose(read_brains(body, kind, LIMITS), brains.mean(1), atol=1e-6)
    with pytest.raises(RefusedError) as refused:
        read_brains(saved(brains), NPY, Limits(batch=6))
    assert refused.value.status == 413


def test_arrays_are_read_only_views_of_the_body():
    body = saved(np.ones(100, np.float32))
    found = read_npy(body)
    assert not found.flags.owndata
    assert not found.flags.writeable


@pytest.mark.parametrize("wrong", ["null,", '"",', "[],", "true,", "[0],", "1e999,"])
@pytest.mark.parametrize("read", [read_brain, read_brains])
def test_refusing_costs_little_more_than_reading(read, wrong):
    """As many mistakes as fit; oracle: the time for as many bytes of valid numbers."""

    def seconds(body):
        begun = time.thread_time()
        with suppress(RefusedError):
            read(body, JSON, LIMITS)
        return time.thread_time() - begun

    count = 2**20 // len(wrong)
    right = b'{"voxels": [[%b0]]}' % (b"0," * 2**19)
    bad = f'{{"voxels": [{wrong * count}0]}}'.encode()
    assert min(seconds(bad) for _ in range(3)) < 6 * min(seconds(right) for _ in range(3))


def test_unknown_keys_cost_little_more_than_reading():
    keys = json.dumps(dict.fromkeys(range(100_000), 0)).encode()
    begun = time.thread_time()
    with pytest.raises(RefusedError, match="other keys") as refused:
        read_brain(keys, JSON, LIMITS)
    assert refused.value.status == 422
    assert time.thread_time() - begun < 0.5


def mutated(generator, body):
    """Return a file with one or two changes: bytes, cuts, doublings, fragments of a header."""
    words = [b"(", b")", b",", b" ", b"0", b"9", b"-1", b"True", b"'<f8'", b"'|O'", b"\n", b"'"]
    changed = bytearray(body)
    for _ in range(generator.integers(1, 3)):
        # The first 130 bytes are the magic and the header, where most can go wrong.
        end = min(len(changed), 130) if generator.random() < 0.6 else len(changed)
        place = int(generator.integers(0, end + 1))
        kind = generator.integers(0, 5)
        if kind == 0 and place < len(changed):
            changed[place] = generator.integers(0, 256)
        elif kind == 1 and place < len(changed):
            changed[place] ^= 1 << int(generator.integers(0, 8))
        elif kind == 2:
            del changed[place : place + int(generator.integers(1, 9))]
        elif kind == 3:
            changed[place:place] = words[generator.integers(0, len(words))]
        else:
            changed = changed + changed[place:] if generator.random() < 0.5 else changed[:place]
    return bytes(changed)


def test_damaged_files_are_refused_or_read_as_numpy_reads_them():
    """Oracle: np.load; a check of the test itself is that enough files are still read."""
    generator = np.random.default_rng(7)
    read, statuses = 0, set()
    for _ in range(MUTATIONS):
        body = mutated(generator, saved(random_array(generator)))
        try:
            found = read_npy(body)
        except RefusedError as refused:
            statuses.add(refused.status)
            continue
        expected = loaded(body)
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_array_equal(found, expected)
        read += 1
    assert statuses == {422}
    assert 0.02 * MUTATIONS < read < 0.5 * MUTATIONS


def test_damaged_bodies_give_finite_voxels_or_nothing():
    """The same by read_brain, as .npy and as JSON."""
    generator, statuses = np.random.default_rng(8), set()
    for _ in range(MUTATIONS // 5):
        array = random_array(generator, 2)
        for body, kind in (
            (saved(array), NPY),
            (json.dumps({"voxels": array.tolist()}).encode(), JSON),
        ):
            try:
                found = read_brain(mutated(generator, body), kind, LIMITS)
            except RefusedError as refused:
                statuses.add(refused.status)
                continue
            assert found.dtype == np.float32
            assert found.ndim == 1
            assert (np.abs(found) <= LIMITS.magnitude).all()
    assert statuses == {422}
