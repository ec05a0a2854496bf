"""Calibration: what cannot be measured is refused, and a cache holds what it says it holds."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from jobs import calibrate
from jobs.calibrate import Calibrate, load
from jobs.simulate import Picture
from mindeye_dist.pictures import encode_jpeg

CONSOLE = Console(quiet=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_pictures": 749}, "train_pictures: got 749, expected at least 750, one session"),
        ({"test_pictures": 299}, "pool: got 300, expected 2 to 299, the test pictures"),
        ({"features_cache": "kept"}, "features_cache: got 'kept', expected a file .npz"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Calibrate(**changes)


@pytest.fixture
def made(monkeypatch):
    """Stand in for pictures and encoder, and count what is encoded; `first` is a picture's grey."""
    made = SimpleNamespace(first=0, encoded=0)

    def pictures(source):
        for n in range(sum(source.counts.values())):
            grey = made.first if n == 0 else n % 256
            yield Picture(encode_jpeg(np.full((32, 32, 3), grey, np.uint8)), {})

    def encode(stored, source):
        made.encoded += 1
        tokens = np.arange(len(stored), dtype=np.float16)[:, None, None]
        return [SimpleNamespace(arrays=tokens)], None

    monkeypatch.setattr(calibrate, "load_pictures", pictures)
    monkeypatch.setattr(calibrate, "encode", encode)
    return made


def test_a_cache_is_of_these_pictures(made, tmp_path):
    """Oracle: the pictures encoded without a cache."""
    cache = tmp_path / "kept.npz"
    plain = Calibrate(train_pictures=750, val_pictures=2, test_pictures=3, pool=3)
    expected = load(plain, CONSOLE)
    own = replace(plain, features_cache=str(cache))
    for _ in range(2):
        found = load(own, CONSOLE)
        np.testing.assert_array_equal(found.clip_tokens, expected.clip_tokens)
        np.testing.assert_array_equal(found.small, expected.small)
    assert made.encoded == 2
    with pytest.raises(ValueError, match=r"holds 750 train, 2 val, 3 test .* 751 train, 1 val"):
        load(replace(own, train_pictures=751, val_pictures=1), CONSOLE)
    made.first = 200
    with pytest.raises(ValueError, match="kept.npz: holds 750 train.*, expected 750 train"):
        load(own, CONSOLE)


def test_a_cache_that_was_being_written_is_none(made, tmp_path, monkeypatch):
    """Killed while it is written. Oracle: the next run makes and keeps it."""
    cache = tmp_path / "kept.npz"
    own = Calibrate(
        train_pictures=750, val_pictures=2, test_pictures=3, pool=3, features_cache=str(cache)
    )

    def killed(path, **arrays):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", killed)
        with pytest.raises(KeyboardInterrupt):
            load(own, CONSOLE)
    assert not cache.exists()
    load(own, CONSOLE)
    assert made.encoded == 2
    assert [path.name for path in tmp_path.iterdir()] == ["kept.npz"]
