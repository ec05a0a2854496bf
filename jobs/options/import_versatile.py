"""Options of `jobs/import_versatile.py`."""

from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class ImportVersatile:
    """Turn the published pipeline into one that can be read without pickle."""

    source: Annotated[str, tyro.conf.Positional]
    """Folder of the pipeline, or its name on the hub: shi-labs/versatile-diffusion."""
    out: str
    """Folder to write, on this machine."""
