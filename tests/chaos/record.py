"""Not a test: figures of a chaos run, printed as a table and kept in a JSON file."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def record(out: Path, name: str, figures: dict[str, Any]) -> None:
    """Print figures and write them beside those of other parts."""
    table = Table(name, "")
    for key, value in figures.items():
        shown = f"{value:.3f}" if isinstance(value, float) else str(value)
        table.add_row(key, shown)
    Console().print(table)
    out.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(out.read_text()) if out.exists() else {}
    out.write_text(json.dumps({**found, name: figures}, indent=1))
