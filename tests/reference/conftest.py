"""The published model's outputs."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def reference():
    """Return a loader of files from MINDEYE_REFERENCE, by default those beside this file."""
    folder = Path(os.environ.get("MINDEYE_REFERENCE", Path(__file__).parent))

    def load(name):
        with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        meta = json.loads(str(arrays.pop("meta"))) if "meta" in arrays else {}
        return {key: torch.from_numpy(np.atleast_1d(value)) for key, value in arrays.items()}, meta

    return load
