"""Events: a table of presentations -> trials, checked and assigned to splits."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mindeye_dist.errors import DataError

SPLITS = ("train", "val", "test")
EMPTY = ("", "n/a")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One presentation.

    Attributes:
        line: of the table, its header being line 1.
        volume: first volume of the trial, from 0 in its file.
        picture: file name, "" where there is none.
        condition: name of what was shown or done, "" where there is none.
    """

    line: int
    session: str
    run: str
    volume: int
    picture: str
    condition: str
    split: str

    @property
    def what(self) -> str:
        """Key that trials of a picture share; the trial itself if it has no picture."""
        return f"picture {self.picture}" if self.picture else f"line {self.line}"


def read_events(
    path: Path, tr: float = 0.0, val_runs: Sequence[str] = (), test_runs: Sequence[str] = ()
) -> list[Trial]:
    """Read the trials of a tab- or comma-separated table with a header, in its order.

    Columns: `session`, `run`; `volume` (from 0 in the session's file) or `onset` (s from the start
    of the file), whose trial starts with the nearest volume, the later one of two as near;
    `picture`, `condition` or both; `split`, unless runs are named here.

    Args:
        path: of the table.
        tr: time between volumes (s), for `onset`.
        val_runs: runs, of every session, whose trials are the val split.
        test_runs: as val_runs; all other runs train.

    Raises:
        DataError: a column is missing, a line's value makes no sense, there are no trials, a run
            that was named is not there, or a picture's trials are in two splits.
    """
    rows = _read_rows(path)
    columns = set(rows[0][1])
    for wanted in (("session",), ("run",), ("volume", "onset"), ("picture", "condition")):
        if not columns & set(wanted):
            raise DataError(f"{path}: has no column {' or '.join(wanted)}, only {sorted(columns)}")
    if {"volume", "onset"} <= columns:
        raise DataError(f"{path}: has columns volume and onset, expected one of both")
    if "onset" in columns and not tr > 0:
        raise DataError(f"{path}: has onsets, which need the time between volumes: got {tr} s")
    if ("split" in columns) == bool(val_runs or test_runs):
        raise DataError(f"{path}: expected either a column split, or val or test runs by name")
    unknown = sorted({*val_runs, *test_runs} - {row["run"] for _, row in rows})
    if unknown or set(val_runs) & set(test_runs):
        raise DataError(
            f"{path}: val runs {sorted(val_runs)} and test runs {sorted(test_runs)}: expected "
            f"different runs of {sorted({row['run'] for _, row in rows})}"
        )
    splits = dict.fromkeys(val_runs, "val") | dict.fromkeys(test_runs, "test")
    trials = [
        _trial(f"{path}: line {line}", line, row, tr, splits.get(row["run"], "train"))
        for line, row in rows
    ]
    _check_repeats(path, trials)
    return trials


def _read_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            file.seek(0)
            reader = csv.DictReader(file, delimiter="\t" if "\t" in header else ",", strict=True)
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a table: {error}") from error
    if not rows:
        raise DataError(f"{path}: has no trials")
    for line, row in rows:
        # DictReader files surplus values under None, and fills missing ones with None.
        if None in row or None in row.values():
            raise DataError(f"{path}: line {line}: has not as many values as the header")
    return [(line, {k: v.strip() for k, v in row.items()}) for line, row in rows]


def _trial(where: str, line: int, row: dict[str, str], tr: float, split: str) -> Trial:
    column = "volume" if "volume" in row else "onset"
    try:
        # Not round(), which goes to even: every other onset amid two volumes would be early.
        volume = (
            int(row["volume"]) if column == "volume" else math.floor(float(row["onset"]) / tr + 0.5)
        )
    except (ValueError, OverflowError) as error:
        raise DataError(f"{where}: {column} is {row[column]!r}, expected a number") from error
    if volume < 0:
        raise DataError(f"{where}: {column} is {row[column]}, expected 0 or more")
    split = row.get("split", split)
    if split not in SPLITS:
        raise DataError(f"{where}: split is {split!r}, expected one of {', '.join(SPLITS)}")
    picture, condition = (
        "" if row.get(name, "") in EMPTY else row[name] for name in ("picture", "condition")
    )
    return Trial(
        line=line,
        session=row["session"],
        run=row["run"],
        volume=volume,
        picture=picture,
        condition=condition,
        split=split,
    )


def _check_repeats(path: Path, trials: Sequence[Trial]) -> None:
    first: dict[str, Trial] = {}
    for trial in trials:
        other = first.setdefault(trial.what, trial)
        if other.split != trial.split or other.condition != trial.condition:
            raise DataError(
                f"{path}: {trial.what} is {other.condition or 'without condition'} of split "
                f"{other.split} in line {other.line}, but {trial.condition or 'without condition'} "
                f"of split {trial.split} in line {trial.line}"
            )
