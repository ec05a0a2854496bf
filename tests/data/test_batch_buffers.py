"""Memory of batches. Oracle: np.stack."""

import numpy as np
import torch

from mindeye_dist.data.batch_buffers import Buffers


def rows(number, shape=(3, 2), dtype=np.float16, count=4):
    return list(np.full((count, *shape), number, dtype))


def stack(buffers, given):
    return buffers.fill((len(given), *given[0].shape), given[0].dtype, lambda n, _: given[n])


def test_memory_is_taken_again_when_nobody_has_it_and_no_sooner():
    buffers = Buffers()
    first = stack(buffers, rows(1))
    second = stack(buffers, rows(2))
    place = first.data_ptr()
    view = first[1:].float()[0], first[2]
    del first
    third = stack(buffers, rows(3))
    assert third.data_ptr() != place, "a view of it is left"
    assert torch.equal(view[1], torch.ones(3, 2).half())
    assert (second == 2).all()
    del view
    fourth = stack(buffers, rows(4))
    assert fourth.data_ptr() == place
    assert (third == 3).all()
    assert (second == 2).all()


def test_batches_of_other_sizes_and_precisions():
    buffers = Buffers()
    mixed = [*rows(1, count=1), *rows(1 / 3, dtype=np.float32, count=2), *rows(2, count=1)]
    for given in (mixed, rows(5, (7,), np.float32)):
        stacked = stack(buffers, given)
        assert stacked.numpy().dtype == np.stack(given).dtype
        np.testing.assert_array_equal(stacked.numpy(), np.stack(given))
    assert buffers.fill((0, 3, 2), np.float32, rows).shape == (0, 3, 2)
    del stacked
    for size in range(1, 50):
        stack(buffers, rows(size, count=size))
    assert len(buffers._arrays) == 1


def test_rows_may_put_themselves_into_their_place():
    def put(number, place):
        place[:] = number
        return np.full(2, 7.5, np.float32) if number == 2 else None

    filled = Buffers().fill((4, 2), np.float16, put)
    np.testing.assert_array_equal(filled, [[0, 0], [1, 1], [7.5, 7.5], [3, 3]])
