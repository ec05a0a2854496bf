"""Not a test: figures of a chaos run, and what they must keep to, as a table and as JSON."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

NEVER = (0, 0)
LONGEST_SHOWN = 200
Bounds = Mapping[str, tuple[float, float]]
"""The least and the most that a figure may be."""


def record(out: Path, name: str, figures: dict[str, Any], bounds: Bounds) -> None:
    """Print figures and write them beside those of other parts.

    Raises:
        SystemExit: a figure is out of its bounds.
    """
    broken = [key for key, (least, most) in bounds.items() if not least <= figures[key] <= most]
    table = Table(name, "", "must be")
    for key, value in figures.items():
        shown = f"{value:.3f}" if isinstance(value, float) else str(value)
        shown = shown if len(shown) < LONGEST_SHOWN else f"{len(value)}, in {out}"
        table.add_row(key, shown, words(bounds[key]) if key in bounds else "")
    Console().print(table)
    out.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(out.read_text()) if out.exists() else {}
    row = {**figures, "held": not broken}
    out.write_text(json.dumps({**found, name: row}, indent=1))
    if broken:
        sys.exit(f"{name}: out of bounds: {', '.join(broken)}")


def words(bound: tuple[float, float]) -> str:
    """Return a bound as one reads it."""
    least, most = bound
    if least == most:
        return f"{least:g}"
    return f"at most {most:g}" if least == 0 else f"at least {least:g}"
