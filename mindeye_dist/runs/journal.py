"""The run's journal: every metric as a JSON line in the run folder, tracked elsewhere or not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mindeye_dist.errors import DataError
from mindeye_dist.runs.folder import JOURNAL, SUMMARY

Report = Callable[[dict[str, Any]], None]
"""Takes one row of metrics."""


class Journal:
    """Journal of a run, open for appending on rank 0.

    Rows after `from_step`, which an interrupted run wrote after its last checkpoint, are dropped.
    """

    def __init__(self, run_dir: str, from_step: int) -> None:
        self._path = Path(run_dir) / JOURNAL
        kept = [row for row in read_journal(run_dir) if row["step"] <= from_step]
        write_atomically(self._path, "".join(json.dumps(row) + "\n" for row in kept))

    def __call__(self, metrics: dict[str, Any]) -> None:
        """Append one row; it must have a `step`.

        Raises:
            DataError: the journal cannot be written, as on a full disk.
        """
        try:
            with self._path.open("a") as file:
                file.write(json.dumps(metrics) + "\n")
        except OSError as error:
            raise DataError(f"{self._path}: cannot be written: {error}") from error


def read_journal(run_dir: str) -> list[dict[str, Any]]:
    """Return the rows of a run's journal; lines cut short by a kill are left out."""
    return read_lines(Path(run_dir) / JOURNAL)


def read_journal_from(run_dir: str, offset: int, most: int) -> tuple[list[dict[str, Any]], int]:
    """Return up to `most` rows of a run's journal from a byte offset on, and the offset after them.

    A last line that is still being written is left for the next call; lines cut short are left out.
    """
    rows: list[dict[str, Any]] = []
    path = Path(run_dir) / JOURNAL
    if not path.exists():
        return rows, offset
    with path.open("rb") as file:
        file.seek(offset)
        while len(rows) < most and (line := file.readline()):
            try:
                rows.append(json.loads(line))
            except ValueError:
                if not line.endswith(b"\n"):
                    break
            offset += len(line)
    return rows, offset


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return a file's JSON lines, none without the file; lines cut short are left out."""
    rows: list[dict[str, Any]] = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def write_summary(run_dir: str, summary: dict[str, Any]) -> None:
    """Write the facts of a finished training."""
    write_atomically(Path(run_dir) / SUMMARY, json.dumps(summary, indent=1))


def read_summary(run_dir: str) -> dict[str, Any]:
    """Return the facts of a run's training, empty if it has not ended."""
    path = Path(run_dir) / SUMMARY
    return json.loads(path.read_text()) if path.exists() else {}


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a kill leaves either the old or the new content.

    Raises:
        DataError: the file cannot be written.
    """
    partial = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text)
        partial.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error}") from error
