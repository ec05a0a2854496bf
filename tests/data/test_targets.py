"""Targets as they are read. Oracle: the numbers that were written."""

import numpy as np
import torch

from mindeye_dist.data import npy
from mindeye_dist.data.targets import checked_array


def test_numbers_of_another_byte_order_are_turned():
    """Torch knows the machine's own alone."""
    values = np.arange(6, dtype=">f2").reshape(2, 3)
    array = checked_array(npy.encode(values), (2, 3), "somewhere")
    assert torch.equal(torch.from_numpy(array.copy()), torch.arange(6).reshape(2, 3).half())
