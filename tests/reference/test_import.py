"""The published model's outputs from weights that came through a published file."""

import torch

from mindeye_dist.ingest.mindeye1_weights import (
    Sizes,
    build,
    import_published,
    published_shapes,
    sizes_of,
)
from mindeye_dist.models.diffusion import add_noise
from tests.ingest.test_mindeye1_weights import NARROW, VOXELS, state_of, write
from tests.reference.test_models import fill


@torch.no_grad()
def test_reference_backbone_through_a_file(reference, tmp_path):
    vectors, meta = reference("backbone")
    tokens, dim = meta["num_tokens"], meta["clip_size"]
    shapes = {f"voxel2clip.{name}": tuple(shape) for name, shape in meta["state_dict"].items()}
    whole = published_shapes(
        "257x768", meta["in_dim"], Sizes(NARROW, {"clip_tokens": (tokens, dim)})
    )
    sizes = sizes_of("257x768", whole | shapes)
    state = state_of("257x768", sizes, meta["in_dim"])
    state |= {name: fill(name.removeprefix("voxel2clip."), shapes[name]) for name in shapes}
    imported = import_published(
        write(tmp_path / "last.pth", state, "module."), meta["in_dim"], any_size=True
    )
    model = build("257x768", meta["in_dim"], imported.sizes).eval()
    model.load_state_dict(imported.weights)
    backbone = model.backbone(vectors["voxels"])
    torch.testing.assert_close(backbone.flatten(1), vectors["backbone"], rtol=0, atol=1e-4)
    projected = model.projector(backbone)
    torch.testing.assert_close(projected, vectors["projector"], rtol=0, atol=1e-4)


@torch.no_grad()
def test_reference_prior_through_a_file(reference, tmp_path):
    vectors, meta = reference("prior")
    shapes = {name: tuple(shape) for name, shape in meta["state_dict"].items()}
    whole = published_shapes(
        "257x768", VOXELS, Sizes(NARROW, {"clip_tokens": (meta["tokens"], meta["dim"])})
    )
    voxel2clip = {name: shape for name, shape in whole.items() if name.startswith("voxel2clip.")}
    sizes = sizes_of("257x768", voxel2clip | shapes)
    state = state_of("257x768", sizes)
    state |= {
        name: fill(name.removeprefix("net."), shape)
        for name, shape in shapes.items()
        if name.startswith("net.") and not name.endswith("freqs")
    }
    for key, table in vectors.items():
        if key.startswith("sched_"):
            state[f"noise_scheduler.{key.removeprefix('sched_')}"] = table
    imported = import_published(write(tmp_path / "last.pth", state), VOXELS, any_size=True)
    model = build("257x768", VOXELS, imported.sizes).eval()
    model.load_state_dict(imported.weights)
    prior = model.prior
    noisy = add_noise(
        prior.schedule, prior.scale * vectors["image_embed"], vectors["times"], vectors["noise"]
    )
    pred = prior(noisy, vectors["times"], vectors["brain_embed"])
    torch.testing.assert_close(pred, vectors["pred"], rtol=0, atol=1e-4)


@torch.no_grad()
def test_reference_latents_through_a_file(reference, tmp_path):
    vectors, meta = reference("lowlevel")
    state = {name: fill(name, tuple(shape)) for name, shape in meta["state_dict"].items()}
    imported = import_published(write(tmp_path / "e.pth", state), meta["in_dim"], any_size=True)
    model = build("autoencoder", meta["in_dim"], imported.sizes).eval()
    model.load_state_dict(imported.weights)
    latents = model.latents(vectors["voxels"])
    torch.testing.assert_close(latents, vectors["latents"], rtol=0, atol=1e-4)
