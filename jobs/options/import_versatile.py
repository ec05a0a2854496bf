"""Flags of `jobs/import_versatile.py`: source and output folder."""

from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class ImportVersatile:
    """Convert the published pipeline to safetensors, which is read without pickle."""

    source: Annotated[str, tyro.conf.Positional]
    """Folder of the pipeline, or its name on the hub: shi-labs/versatile-diffusion."""
    out: str
    """Output folder, on this machine."""
