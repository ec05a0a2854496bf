"""Memory of batches. Oracle: np.stack."""

import numpy as np

from mindeye_dist.data.batch_buffers import Buffers


def rows(number, shape=(3, 2), dtype=np.float16, count=4):
    return list(np.full((count, *shape), number, dtype))


def stack(buffers, given, name="voxels"):
    return buffers.fill(name, (len(given), *given[0].shape), given[0].dtype, lambda n, _: given[n])


def test_memory_of_a_name_is_written_over():
    buffers = Buffers()
    first, other = stack(buffers, rows(1)), stack(buffers, rows(2), "clip_tokens")
    third = stack(buffers, rows(3))
    assert third.data_ptr() == first.data_ptr()
    assert (third == 3).all()
    assert (other == 2).all()
    assert stack(Buffers(), rows(4)).data_ptr() != third.data_ptr()


def test_batches_of_other_sizes_and_precisions():
    buffers = Buffers()
    mixed = [*rows(1, count=1), *rows(1 / 3, dtype=np.float32, count=2), *rows(2, count=1)]
    for given in (mixed, rows(5, (7,), np.float32), rows(6, (7,), np.float32, count=2)):
        stacked = stack(buffers, given)
        assert stacked.numpy().dtype == np.stack(given).dtype
        np.testing.assert_array_equal(stacked.numpy(), np.stack(given))
    assert buffers.fill("voxels", (0, 3, 2), np.float32, rows).shape == (0, 3, 2)


def test_rows_may_put_themselves_into_their_place():
    def put(number, place):
        place[:] = number
        return np.full(2, 7.5, np.float32) if number == 2 else None

    filled = Buffers().fill("voxels", (4, 2), np.float16, put)
    np.testing.assert_array_equal(filled, [[0, 0], [1, 1], [7.5, 7.5], [3, 3]])
