"""Convert: volumes, a mask and trials -> voxel responses, z-scored as the published ones are.

Time series may be detrended run by run; a trial's response is the mean of a window of volumes; then
every voxel is z-scored by the mean and standard deviation of its session's training trials. No
volume of a val or test trial's window enters the numbers that the model trains on: windows of
different splits share none, and in a run of several splits no line is fitted to them. Only whether
a voxel can be used at all is seen from all trials.
"""

import gzip
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from mindeye_dist.errors import DataError, InputError
from mindeye_dist.ingest.events import Trial
from mindeye_dist.storage import npy

_VOLUMES_AT_ONCE = 16
_LARGEST = float(np.finfo(np.float16).max)
_UNREADABLE = (OSError, EOFError, ValueError, zlib.error)


@dataclass(frozen=True, kw_only=True)
class Response:
    """How a trial's response is taken from a series.

    Attributes:
        delay: volumes from the trial's first volume to the window.
        window: volumes that are averaged.
        detrend: subtract each run's straight line, voxel by voxel; in a run of several splits it is
            fitted to the volumes outside of val's and test's windows.
        volumes_per_run: of each run in a file, or one number for all; empty: the file is one run.
    """

    delay: int = 0
    window: int = 1
    detrend: bool = False
    volumes_per_run: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.delay < 0 or self.window < 1:
            raise InputError(
                f"delay {self.delay} and window {self.window}: expected at least 0 and 1 volumes"
            )

    def volumes(self, trial: Trial) -> slice:
        """Return the volumes that a trial's response is the mean of."""
        first = trial.volume + self.delay
        return slice(first, first + self.window)


@dataclass(frozen=True)
class Picture:
    """The trials of one picture, by their number, or a trial without one."""

    key: str
    trials: tuple[int, ...]


def read_mask(path: Path) -> Bool[np.ndarray, "x y z"]:
    """Read a mask: the voxels that are not 0.

    Raises:
        DataError: it is no NIfTI of three dimensions, or empty.
    """
    image = _load(path)
    try:
        values = np.asarray(image.dataobj)
    except _UNREADABLE as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        raise DataError(f"{path}: got a mask of shape {values.shape}, expected (x, y, z)")
    mask: np.ndarray = (values != 0) & np.isfinite(values)
    if not mask.any():
        raise DataError(f"{path}: no voxel of the mask is set")
    return mask


def read_series(path: Path, mask: Bool[np.ndarray, "x y z"]) -> Float[np.ndarray, "volumes voxels"]:
    """Read the voxels of a mask, in its C order, from a 4-D NIfTI, some volumes at a time.

    Raises:
        DataError: it is no NIfTI of four dimensions, of another shape than the mask, or cut short.
    """
    image = _load(path)
    if len(image.shape) != 4 or image.shape[:3] != mask.shape or image.shape[3] < 1:
        raise DataError(
            f"{path}: got volumes of shape {image.shape}, expected {(*mask.shape, 'volumes')} "
            "as the mask has"
        )
    series = np.empty((image.shape[3], int(mask.sum())), np.float32)
    try:
        for start in range(0, len(series), _VOLUMES_AT_ONCE):
            volumes = np.asarray(image.dataobj[..., start : start + _VOLUMES_AT_ONCE])
            series[start : start + _VOLUMES_AT_ONCE] = volumes[mask].T
    except _UNREADABLE as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    return series


def run_starts(num_volumes: int, volumes_per_run: Sequence[int], where: str) -> list[int]:
    """Return the first volume of each run and, last, the number of volumes.

    Raises:
        DataError: the runs do not fill the volumes.
    """
    lengths = list(volumes_per_run) or [num_volumes]
    if len(lengths) == 1 and lengths[0] > 0:
        lengths *= max(num_volumes // lengths[0], 1)
    if min(lengths) < 1 or sum(lengths) != num_volumes:
        raise DataError(
            f"{where}: has {num_volumes} volumes, expected runs of {tuple(volumes_per_run)} volumes"
        )
    return [0, *np.cumsum(lengths).tolist()]


def detrend(
    series: Float[np.ndarray, "volumes voxels"],
    starts: Sequence[int],
    fitted: Bool[np.ndarray, " volumes"],
) -> Float[np.ndarray, "volumes voxels"]:
    """Subtract from each run and voxel the least-squares straight line of its `fitted` volumes."""
    result = np.empty_like(series)
    for first, last in zip(starts[:-1], starts[1:], strict=True):
        run, own = series[first:last].astype(np.float64), fitted[first:last]
        run -= run[own][0]  # a constant voxel stays constant to the last bit, and is found
        time = np.arange(last - first, dtype=np.float64)
        time -= time[own].mean()
        run -= run[own].mean(axis=0)
        slope = time[own] @ run[own] / (float(time[own] @ time[own]) or 1.0)
        result[first:last] = run - time[:, None] * slope
    return result


def fitted_volumes(
    trials: Sequence[Trial], how: Response, starts: Sequence[int], where: str
) -> Bool[np.ndarray, " volumes"]:
    """Return the volumes that runs' lines are fitted to.

    They are all of a run whose trials are of one split; else all outside of val's and test's
    windows.

    Raises:
        DataError: these are less than half of a run; names the table's line.
    """
    fitted = np.ones(starts[-1], bool)
    for first, last in zip(starts[:-1], starts[1:], strict=True):
        own = [trial for trial in trials if first <= trial.volume < last]
        if len({trial.split for trial in own}) < 2:
            continue
        held_out = [trial for trial in own if trial.split != "train"]
        for trial in held_out:
            fitted[how.volumes(trial)] = False
        left = int(fitted[first:last].sum())
        if 2 * left < last - first:  # a line through a few volumes is no run's trend
            raise DataError(
                f"line {held_out[0].line}: {left} of the {last - first} volumes of its run in "
                f"{where} are outside of val's and test's windows, expected half to fit a line to"
            )
    return fitted


def trial_responses(
    series: Float[np.ndarray, "volumes voxels"],
    trials: Sequence[Trial],
    how: Response,
    where: str,
) -> Float[np.ndarray, "trials voxels"]:
    """Return each trial's response: the mean of its window of volumes.

    Raises:
        DataError: a window reaches beyond the series or its run, shares a volume with one of
            another split or leaves too few to fit a line to, or a run of the table is in two runs
            of the series; names the table's line.
    """
    starts = run_starts(len(series), how.volumes_per_run, where)
    for trial in trials:
        first = trial.volume + how.delay
        if first + how.window > len(series):
            raise DataError(
                f"line {trial.line}: the response is in volumes {first} to "
                f"{first + how.window - 1}, but {where} ends with volume {len(series) - 1}"
            )
    if how.volumes_per_run:
        _check_runs(trials, how, starts, where)
    _check_splits(trials, how, where)
    if how.detrend:
        if not how.volumes_per_run and len({(t.session, t.run) for t in trials}) > 1:
            raise DataError(f"{where}: detrending several runs needs the volumes of each")
        series = detrend(series, starts, fitted_volumes(trials, how, starts, where))
    means = [series[how.volumes(t)].mean(axis=0, dtype=np.float64) for t in trials]
    return np.stack(means).astype(np.float32)


def _check_runs(trials: Sequence[Trial], how: Response, starts: Sequence[int], where: str) -> None:
    names: dict[int, tuple[str, str]] = {}
    places: dict[tuple[str, str], int] = {}
    for trial in trials:
        name = (trial.session, trial.run)
        ends = (trial.volume, trial.volume + how.delay + how.window - 1)
        place, last = np.searchsorted(starts, ends, side="right").tolist()
        if place != last:
            raise DataError(f"line {trial.line}: the response reaches beyond its run in {where}")
        if names.setdefault(place, name) != name or places.setdefault(name, place) != place:
            raise DataError(
                f"line {trial.line}: volume {trial.volume} is in run {place} of {where}, which "
                f"does not go with session {trial.session}, run {trial.run}: other trials say so"
            )


def _check_splits(trials: Sequence[Trial], how: Response, where: str) -> None:
    owners: dict[int, Trial] = {}
    for trial in trials:
        window = how.volumes(trial)
        for volume in range(window.start, window.stop):
            other = owners.setdefault(volume, trial)
            if other.split != trial.split:
                raise DataError(
                    f"line {other.line} of split {other.split} and line {trial.line} of split "
                    f"{trial.split}: both responses are of volume {volume} of {where}"
                )


def zscore(
    responses: Float[np.ndarray, "trials voxels"], is_train: Bool[np.ndarray, " trials"], where: str
) -> Float[np.ndarray, "trials voxels"]:
    """Z-score every voxel of a session by its training trials; NaN where that cannot be.

    Voxels become NaN that are constant over the training trials, or in any trial not finite or of
    a z-score that float16, in which responses are stored, cannot hold.

    Raises:
        DataError: there are no training trials.
    """
    if not is_train.any():
        raise DataError(f"{where}: has no training trials to take mean and deviation from")
    finite = np.isfinite(responses).all(axis=0)
    values = np.where(finite, responses, 0).astype(np.float64)
    train = values[is_train]
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    # Not 0: the mean of equal numbers is off by a rounding error.
    usable = finite & (deviation > 1e-7 * np.abs(train).max(axis=0))
    scaled = (values - mean) / np.where(usable, deviation, 1)
    usable &= (np.abs(scaled) <= _LARGEST).all(axis=0)
    return np.where(usable, scaled, np.nan).astype(np.float32)


def usable_voxels(
    sessions: Mapping[str, Float[np.ndarray, "trials voxels"]], drop: bool
) -> Bool[np.ndarray, " voxels"]:
    """Return a mask of the voxels that are finite in every session.

    Raises:
        DataError: some are not, and are not to be dropped, or none are.
    """
    bad = {name: np.isnan(values).any(axis=0) for name, values in sessions.items()}
    usable: np.ndarray = ~np.any(list(bad.values()), axis=0)
    counts = {name: int(b.sum()) for name, b in bad.items() if b.any()}
    if (counts and not drop) or not usable.any():
        raise DataError(
            f"{int((~usable).sum())} of {len(usable)} voxels are constant over the training "
            f"trials, not finite, or so nearly constant that a z-score is beyond float16's "
            f"{_LARGEST:g} (by session: {counts}); --drop-constant leaves them out"
        )
    return usable


def group_repeats(trials: Sequence[Trial]) -> dict[str, list[Picture]]:
    """Return pictures with their trials by split, in the order of their first trials."""
    groups: dict[str, list[int]] = {}
    for number, trial in enumerate(trials):
        groups.setdefault(trial.what, []).append(number)
    splits: dict[str, list[Picture]] = {}
    for number, members in enumerate(groups.values()):
        picture = Picture(f"sample{number:09d}", tuple(members))
        splits.setdefault(trials[members[0]].split, []).append(picture)
    return {split: splits[split] for split in ("train", "val", "test") if split in splits}


def sample_members(
    pictures: Sequence[Picture],
    trials: Sequence[Trial],
    responses: Float[np.ndarray, "trials voxels"],
    num_repeats: int,
    jpegs: Mapping[str, bytes],
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield key and members of each picture's sample, as published, with `condition.txt`.

    Repeats that a picture lacks are filled with copies of those it has; `num_uniques.npy` says how
    many are its own. `trial.npy` are the trials' numbers in the table, from 0.
    """
    for picture in pictures:
        rows = np.resize(picture.trials, num_repeats)
        first = trials[picture.trials[0]]
        members: dict[str, bytes] = {
            "nsdgeneral.npy": npy.encode(responses[rows].astype(np.float16)),
            "coco73k.npy": npy.encode(np.array(int(picture.key.removeprefix("sample")))),
            "num_uniques.npy": npy.encode(np.array(len(picture.trials))),
            "trial.npy": npy.encode(rows),
            "condition.txt": first.condition.encode(),
        }
        if first.picture in jpegs:
            members["jpg"] = jpegs[first.picture]
        yield picture.key, members


def _load(path: Path) -> Any:
    import nibabel

    try:
        if path.suffix == ".gz":  # whose checksum at the end nibabel does not come to
            with gzip.open(path) as file:
                while file.read(2**20):
                    pass
        # Kept open, or every slice of a .nii.gz would be unpacked from the start of the file.
        return nibabel.load(path, keep_file_open=True)
    except (
        *_UNREADABLE,
        nibabel.filebasedimages.ImageFileError,
        nibabel.spatialimages.HeaderDataError,
    ) as error:
        raise DataError(f"{path}: cannot be read as NIfTI: {error}") from error
