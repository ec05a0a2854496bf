"""The run's journal: every metric as a JSON line in the run folder, whatever befalls a server."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mindeye_dist.runs.folder import JOURNAL, SUMMARY
from mindeye_dist.storage.store import DataError


class Journal:
    """Appends metrics to a run's journal; opened by rank 0 only."""

    def __init__(self, run_dir: str, from_step: int) -> None:
        self._path = Path(run_dir) / JOURNAL
        kept = [row for row in read_journal(run_dir) if row["step"] <= from_step]
        write_atomically(self._path, "".join(json.dumps(row) + "\n" for row in kept))

    def __call__(self, metrics: dict[str, Any]) -> None:
        """Append one row; it must have a `step`.

        Raises:
            DataError: it cannot be written, as on a full disk.
        """
        try:
            with self._path.open("a") as file:
                file.write(json.dumps(metrics) + "\n")
        except OSError as error:
            raise DataError(f"{self._path}: cannot be written: {error}") from error


def read_journal(run_dir: str) -> list[dict[str, Any]]:
    """Return the rows of a run's journal; a last line cut short by a kill is left out."""
    return read_lines(Path(run_dir) / JOURNAL)


def read_journal_from(run_dir: str, offset: int, most: int) -> tuple[list[dict[str, Any]], int]:
    """Return at most so many rows from a byte of a run's journal on, and the byte after them.

    A last line that is not whole yet is left for the next time; those cut short are left out.
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
    """Return a file's JSON lines, none where there is no file; those cut short are left out."""
    rows: list[dict[str, Any]] = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def write_summary(run_dir: str, summary: dict[str, Any]) -> None:
    """Write a finished run's training facts."""
    write_atomically(Path(run_dir) / SUMMARY, json.dumps(summary, indent=1))


def read_summary(run_dir: str) -> dict[str, Any]:
    """Return a run's training facts, empty where it did not end."""
    path = Path(run_dir) / SUMMARY
    return json.loads(path.read_text()) if path.exists() else {}


def write_atomically(path: Path, text: str) -> None:
    """Write a file that is whole or as it was, whatever is killed.

    Raises:
        DataError: it cannot be written.
    """
    partial = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text)
        partial.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error}") from error


Report = Callable[[dict[str, Any]], None]
