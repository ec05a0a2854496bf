"""Volumes to responses; the oracles are loops over voxels, with np.polyfit for straight lines."""

import nibabel
import numpy as np
import pytest

from mindeye_dist.data.shards import decode_npy
from mindeye_dist.errors import DataError
from mindeye_dist.ingest.events import Trial
from mindeye_dist.ingest.nifti import (
    Response,
    detrend,
    group_repeats,
    read_mask,
    read_series,
    run_starts,
    sample_members,
    trial_responses,
    usable_voxels,
    zscore,
)


def trial(volume, line=2, run="1", session="1", picture="", split="train"):
    return Trial(
        line=line,
        session=session,
        run=run,
        volume=volume,
        picture=picture,
        condition=f"kind {picture}",
        split=split,
    )


@pytest.fixture
def series():
    generator = np.random.default_rng(0)
    drift = np.linspace(0, 5, 37)[:, None] * generator.standard_normal(6)
    return (1000 + drift + generator.standard_normal((37, 6))).astype(np.float32)


EVERYTHING = np.ones(37, bool)


@pytest.mark.parametrize("fitted", [EVERYTHING, np.arange(37) % 5 != 1])
def test_detrending_is_polyfit_in_each_run(series, fitted):
    starts = [0, 10, 11, 13, 37]
    expected = np.empty(series.shape)
    for first, last in zip(starts[:-1], starts[1:], strict=True):
        for voxel in range(series.shape[1]):
            time, values = np.arange(last - first), series[first:last, voxel].astype(float)
            own = fitted[first:last]
            fit = np.polyfit(time[own], values[own], 1 if own.sum() > 1 else 0)
            expected[first:last, voxel] = values - np.polyval(fit, time)
    np.testing.assert_allclose(detrend(series, starts, fitted), expected, atol=1e-4)


def test_constant_voxels_stay_constant_when_detrended():
    constant = np.full((30, 4), 1234.567, np.float32)
    assert not detrend(constant, [0, 10, 30], np.ones(30, bool)).any()


def test_responses_are_means_of_windows(series):
    trials = [trial(0), trial(12, 3), trial(30, 4)]
    found = trial_responses(series, trials, Response(delay=3, window=4), "bold")
    for row, t in zip(found, trials, strict=True):
        for voxel in range(6):
            values = [float(series[t.volume + 3 + i, voxel]) for i in range(4)]
            assert row[voxel] == pytest.approx(sum(values) / 4, rel=1e-6)


def test_responses_of_detrended_runs(series):
    """Oracle: the responses of a series that is detrended beforehand; each run is of one split."""
    how = Response(delay=1, window=2, detrend=True, volumes_per_run=(20, 17))
    trials = [trial(0), trial(15, 3)]
    trials += [trial(20, 4, "2", split="test"), trial(34, 5, "2", split="test")]
    detrended = detrend(series, [0, 20, 37], EVERYTHING)
    plain = trial_responses(detrended, trials, Response(delay=1, window=2), "")
    np.testing.assert_array_equal(trial_responses(series, trials, how, "bold"), plain)


@pytest.mark.parametrize("runs", [(), (37,), (20, 17)])
@pytest.mark.parametrize("delay", [0, 2])
def test_held_out_windows_change_no_training_response(series, runs, delay):
    """Oracle: the same series with other numbers, one not finite, in val's and test's windows."""
    how = Response(delay=delay, window=3, detrend=True, volumes_per_run=runs)
    # Windows touch, those of training trials overlap, and the first volume of all is held out.
    splits = {0: "test", 3: "train", 4: "train", 7: "val", 10: "train", 12: "train", 14: "train"}
    splits |= {20: "test", 23: "train", 27: "train", 32: "train"}
    trials = [
        trial(volume, line, "2" if len(runs) == 2 and volume >= 20 else "1", split=split)
        for line, (volume, split) in enumerate(splits.items(), start=2)
    ]
    is_train = np.array([t.split == "train" for t in trials])
    before = trial_responses(series, trials, how, "bold")
    changed = series.copy()
    for first in (delay, 7 + delay, 20 + delay):
        changed[first : first + 3] = 7 * changed[first : first + 3] - 900
        changed[first, 2] = np.nan
    after = trial_responses(changed, trials, how, "bold")
    np.testing.assert_array_equal(after[is_train], before[is_train])
    assert (after[~is_train] != before[~is_train]).all()


@pytest.mark.parametrize(
    ("trials", "how", "message"),
    [
        (
            [trial(3), trial(35, 7)],
            Response(delay=1, window=2),
            "line 7: .* 36 to 37, but bold",
        ),
        ([trial(9, 7)], Response(window=2, volumes_per_run=(10, 27)), "line 7: .* beyond its run"),
        ([trial(9), trial(10, 7)], Response(volumes_per_run=(10, 27)), "line 7: volume 10 is in r"),
        ([trial(8), trial(9, 7, "2")], Response(volumes_per_run=(10, 27)), "line 7: .* run 2"),
        ([trial(8)], Response(volumes_per_run=(10, 20)), r"bold: has 37 volumes, .*\(10, 20\)"),
        ([trial(8)], Response(volumes_per_run=(10,)), r"bold: has 37 volumes, .*\(10,\)"),
        ([trial(8)], Response(volumes_per_run=(0,)), r"bold: has 37 volumes, .*\(0,\)"),
        ([trial(8), trial(9, 3, "2")], Response(detrend=True), "several runs needs the volumes"),
        (
            [trial(3), trial(5, 7, split="test")],
            Response(delay=1, window=3),
            "line 2 of split train and line 7 of split test: .* of volume 6 of bold",
        ),
        (
            [trial(8, 4, split="test"), trial(2), trial(7, 9, split="val")],
            Response(window=2),
            "line 4 of split test and line 9 of split val: .* of volume 8 of bold",
        ),
        (
            [trial(0), trial(3, 7, split="test"), trial(6, 8, split="val")],
            Response(window=3, detrend=True, volumes_per_run=(10, 27)),
            "line 7: 4 of the 10 volumes of its run in bold are outside",
        ),
    ],
)
def test_trials_that_do_not_fit_the_scan(series, trials, how, message):
    with pytest.raises(DataError, match=message):
        trial_responses(series, trials, how, "bold")


def test_impossible_windows():
    for values in ({"window": 0}, {"delay": -1}):
        with pytest.raises(ValueError, match="expected at least 0 and 1 volumes"):
            Response(**values)


def test_one_number_stands_for_all_runs():
    assert run_starts(12, (4,), "bold") == [0, 4, 8, 12]
    assert run_starts(12, (5, 7), "bold") == [0, 5, 12]
    assert run_starts(12, (), "bold") == [0, 12]


def test_zscore_knows_training_trials_only(series):
    """Oracle: a loop over voxels; and test trials change nothing but themselves."""
    is_train = np.arange(37) % 3 > 0
    found = zscore(series, is_train, "session 1")
    for voxel in range(6):
        train = [float(v) for v, t in zip(series[:, voxel], is_train, strict=True) if t]
        mean = sum(train) / len(train)
        deviation = (sum((v - mean) ** 2 for v in train) / len(train)) ** 0.5
        expected = (series[:, voxel].astype(float) - mean) / deviation
        np.testing.assert_allclose(found[:, voxel], expected, atol=1e-4)
    changed = np.where(is_train[:, None], series, series * 3 + 7)
    np.testing.assert_array_equal(zscore(changed, is_train, "")[is_train], found[is_train])


@pytest.mark.parametrize("sign", [-1, 1])
def test_zscores_that_float16_cannot_hold(sign):
    """Training trials are 1 and -1 by turns, so a test trial's response is its own z-score."""
    train = np.tile([[1, 1], [-1, -1]], (15, 1))
    responses = np.append(train, [[sign * 65_000, sign * 65_600]], axis=0).astype(np.float32)
    scored = {"1": zscore(responses, np.arange(31) < 30, "session 1")}
    assert usable_voxels(scored, drop=True).tolist() == [True, False]
    assert np.isfinite(scored["1"][:, 0].astype(np.float16)).all()
    with pytest.raises(DataError, match=r"1 of 2 voxels .* beyond float16's 65504 .*'1': 1"):
        usable_voxels(scored, drop=False)


def test_voxels_without_deviation_are_counted(series):
    """Constant but for test trials, constant in 0.1 (no float), not finite in one trial."""
    is_train = np.arange(37) < 30
    series[:30, 1] = 5
    series[:, 2] = 0.1
    series[33, 3] = np.nan
    series[3, 4] = np.inf
    scored = {"1": zscore(series, is_train, ""), "2": zscore(series[:, [0] * 6], is_train, "")}
    assert usable_voxels(scored, drop=True).tolist() == [True, False, False, False, False, True]
    with pytest.raises(DataError, match=r"4 of 6 voxels are constant .*\{'1': 4\}"):
        usable_voxels(scored, drop=False)
    with pytest.raises(DataError, match="6 of 6 voxels"):
        usable_voxels({"1": np.full((2, 6), np.nan, np.float32)}, drop=True)
    with pytest.raises(DataError, match="session 3: has no training trials"):
        zscore(series, is_train & False, "session 3")


def test_repeats_are_stacked_and_filled_by_copies():
    trials = [
        trial(0, 2, picture="a"),
        trial(1, 3, picture="b", split="test"),
        trial(2, 4, picture="a"),
        trial(3, 5),
        trial(4, 6, picture="a"),
        trial(5, 7),
        trial(6, 8, picture="a"),
    ]
    splits = group_repeats(trials)
    groups = {split: [p.trials for p in pictures] for split, pictures in splits.items()}
    assert groups == {"train": [(0, 2, 4, 6), (3,), (5,)], "test": [(1,)]}
    responses = np.arange(14, dtype=np.float32).reshape(7, 2)
    everything = [p for pictures in splits.values() for p in pictures]
    samples = dict(sample_members(everything, trials, responses, 4, {"a": b"jpeg"}))
    assert len(samples) == 4, "keys differ across splits"
    repeats, alone = list(samples.values())[:2]
    assert repeats["jpg"] == b"jpeg"
    assert "jpg" not in alone
    assert repeats["condition.txt"] == b"kind a"
    assert decode_npy(repeats["trial.npy"], "").tolist() == [0, 2, 4, 6]
    assert decode_npy(alone["num_uniques.npy"], "") == 1
    voxels = decode_npy(repeats["nsdgeneral.npy"], "")
    assert voxels.dtype == np.float16
    np.testing.assert_array_equal(voxels, responses[[0, 2, 4, 6]])
    np.testing.assert_array_equal(decode_npy(alone["nsdgeneral.npy"], ""), responses[[3] * 4])


@pytest.fixture
def nifti(tmp_path):
    def write(values, name="bold.nii.gz"):
        path = tmp_path / name
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
        return path

    return write


def test_series_are_the_voxels_of_the_mask(nifti):
    """Oracle: nibabel's own whole array; more volumes than are read at once."""
    generator = np.random.default_rng(0)
    values = generator.integers(-500, 500, (4, 5, 3, 41)).astype(np.int16)
    mask = generator.random((4, 5, 3)) < 0.4
    path = nifti(values)
    found = read_series(path, read_mask(nifti(mask.astype(np.uint8), "mask.nii")))
    whole = nibabel.load(path).get_fdata()
    for row, place in enumerate(np.argwhere(mask)):
        np.testing.assert_array_equal(found[:, row], whole[tuple(place)])


def test_files_that_do_not_fit(nifti, tmp_path):
    mask = np.ones((4, 5, 3), bool)
    with pytest.raises(DataError, match=r"bold.nii.gz: .*\(4, 5, 2, 6\), expected \(4, 5, 3, 'vol"):
        read_series(nifti(np.zeros((4, 5, 2, 6), np.int16)), mask)
    with pytest.raises(DataError, match=r"bold.nii.gz: got volumes of shape \(4, 5, 3\)"):
        read_series(nifti(np.zeros((4, 5, 3), np.int16)), mask)
    with pytest.raises(DataError, match=r"mask of shape \(4, 5, 3, 2\), expected \(x, y, z\)"):
        read_mask(nifti(np.ones((4, 5, 3, 2), np.uint8)))
    with pytest.raises(DataError, match="no voxel of the mask is set"):
        read_mask(nifti(np.zeros((4, 5, 3), np.uint8)))
    with pytest.raises(DataError, match=r"none.nii.gz: cannot be read as NIfTI"):
        read_mask(tmp_path / "none.nii.gz")
    (tmp_path / "text.nii").write_text("no image")
    with pytest.raises(DataError, match=r"text.nii: cannot be read as NIfTI"):
        read_series(tmp_path / "text.nii", mask)
    noise = np.random.default_rng(0).integers(0, 999, (4, 5, 3, 60)).astype(np.int16)
    for name in ("cut.nii.gz", "cut.nii"):
        path = nifti(noise, name)
        path.write_bytes(path.read_bytes()[:3000])
        with pytest.raises(DataError, match=f"{name}: cannot be read"):
            read_series(path, mask)
    path = nifti(noise, "spoilt.nii.gz")
    data = path.read_bytes()
    path.write_bytes(data[:3000] + bytes(200) + data[3200:])
    with pytest.raises(DataError, match="spoilt.nii.gz: cannot be read"):
        read_series(path, mask)
