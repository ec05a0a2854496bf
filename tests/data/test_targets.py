"""Targets as they are read. Oracle: the numbers that were written."""

import dataclasses

import numpy as np
import pytest
import torch

from mindeye_dist.data.members import MemberPlace
from mindeye_dist.data.shards import Member, Sample
from mindeye_dist.data.targets import checked_array
from mindeye_dist.errors import BadSampleError
from mindeye_dist.storage import npy
from mindeye_dist.storage.store import Store


def place(checksum=""):
    return MemberPlace(Store("."), Sample("a.tar", "7", {"b": Member(5, 6, checksum)}), "b")


def test_numbers_of_another_byte_order_are_turned():
    """Torch knows the machine's own alone."""
    values = np.arange(6, dtype=">f2").reshape(2, 3)
    array = checked_array(npy.encode(values), (2, 3), place(), set())
    assert torch.equal(torch.from_numpy(array.copy()), torch.arange(6).reshape(2, 3).half())


def test_what_is_not_finite_is_never_taken_for_what_was():
    """Nor is it remembered where no checksum says that the bytes are the same."""
    good, bad = npy.encode(np.zeros(3, np.float16)), npy.encode(np.full(3, np.nan, np.float16))
    finite = set()
    for checksum in ("", "one"):
        checked_array(good, (3,), place(checksum), finite)
    assert finite == {"one"}
    for checksum in ("", "other"):
        with pytest.raises(BadSampleError, match=r"a.tar: sample 7: b at byte 5: 3 values are not"):
            checked_array(bad, (3,), place(checksum), finite)
    named = dataclasses.replace(place(), subject="subj01")
    with pytest.raises(BadSampleError, match="^subj01: "):
        checked_array(bad, (3,), named, finite)
