"""Memory of batches. Oracle: np.stack."""

import numpy as np
import torch

from mindeye_dist.data.buffers import Buffers


def rows(number, shape=(3, 2), dtype=np.float16, count=4):
    return list(np.full((count, *shape), number, dtype))


def test_memory_is_taken_again_when_nobody_has_it_and_no_sooner():
    buffers = Buffers()
    first = buffers.stack(rows(1), 4, (3, 2))
    second = buffers.stack(rows(2), 4, (3, 2))
    place = first.data_ptr()
    view = first[1:].float()[0], first[2]
    del first
    third = buffers.stack(rows(3), 4, (3, 2))
    assert third.data_ptr() != place, "a view of it is left"
    assert torch.equal(view[1], torch.ones(3, 2).half())
    assert (second == 2).all()
    del view
    fourth = buffers.stack(rows(4), 4, (3, 2))
    assert fourth.data_ptr() == place
    assert (third == 3).all()
    assert (second == 2).all()


def test_batches_of_other_sizes_and_precisions():
    buffers = Buffers()
    mixed = [*rows(1, count=1), *rows(1 / 3, dtype=np.float32, count=2)]
    for given, shape in ((mixed, (3, 2)), (rows(5, (7,), np.float32), (7,)), ([], (3, 2))):
        stacked = buffers.stack(iter(given), len(given), shape)
        expected = np.stack(given) if given else np.empty((0, *shape), np.float32)
        assert stacked.numpy().dtype == expected.dtype
        np.testing.assert_array_equal(stacked.numpy(), expected)
    for size in range(1, 50):
        buffers.stack(rows(size, count=size), size, (3, 2))
    assert len(buffers._arrays) == 1
