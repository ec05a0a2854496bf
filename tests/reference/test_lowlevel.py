"""The low-level network against the published model's outputs."""

import pytest
import torch

from mindeye_dist.ingest.mindeye1_names import our_name
from mindeye_dist.ingest.mindeye1_weights import build, sizes_of
from tests.reference.test_models import fill


@pytest.fixture
def lowlevel(reference):
    """Return the vectors, their meta, and the network of the sizes that the shapes tell, filled."""
    vectors, meta = reference("lowlevel")
    shapes = {name: tuple(shape) for name, shape in meta["state_dict"].items()}
    model = build("autoencoder", vectors["voxels"].shape[1], sizes_of("autoencoder", shapes))
    model.load_state_dict(
        {our_name(name, "autoencoder"): fill(name, shape) for name, shape in shapes.items()}
    )
    return vectors, meta, model.eval()


@torch.no_grad()
def test_latents_and_feature_map(lowlevel):
    vectors, meta, model = lowlevel
    outputs = model(vectors["voxels"])
    torch.testing.assert_close(outputs.latents, vectors["latents"], rtol=0, atol=1e-4)
    rows = outputs.feature_map[:, :: meta["feats_stride"]]
    torch.testing.assert_close(rows, vectors["feats"], rtol=0, atol=1e-4)


@torch.no_grad()
def test_inference_without_the_head(lowlevel):
    vectors, _, model = lowlevel
    del model.head
    latents = model.latents(vectors["voxels"])
    torch.testing.assert_close(latents, vectors["latents"], rtol=0, atol=1e-4)
