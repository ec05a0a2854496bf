"""The import command: a published file -> a checkpoint that predicts, or one line of error."""

import json

import numpy as np
import pytest
import torch

from jobs.import_published import main
from jobs.options.embed import Embed
from jobs.options.encoders import EncoderOptions
from jobs.recipes import mindeye1_lowlevel
from jobs.work.embed import set_name
from mindeye_dist.decoding.predictor import Predictor
from mindeye_dist.ingest.mindeye1_weights import Sizes, build, import_published
from mindeye_dist.models.diffusion import sample_ddpm
from mindeye_dist.randomness import torch_generator
from mindeye_dist.runs.checkpoints import read_config, verify
from tests.conftest import DIM, NUM_TOKENS, NUM_VOXELS
from tests.ingest.test_mindeye1_weights import SMALL, state_of, write


@pytest.mark.parametrize("kind", ["257x768", "1x768"])
def test_checkpoint_predicts(kind, tmp_path, capsys):
    """Oracle: the modules themselves, filled with the file's weights."""
    file = write(tmp_path / "last.pth", state_of(kind, voxels=12682), "module.")
    folder = tmp_path / "imported"
    main([str(file), "--voxels-of", "subj07", "--any-size", "--out", str(folder)])
    said = capsys.readouterr().out
    assert said.startswith(f"last.pth: {kind}, 12682 voxels, ")
    assert "not stored: noise_scheduler.betas" in said
    assert "not read: epoch, optimizer_state_dict" in said
    assert said.endswith(f"{folder}\n")
    predictor = Predictor(folder)
    voxels = np.random.default_rng(0).standard_normal((2, 12682)).astype(np.float32)
    model = build(kind, 12682, SMALL[kind]).eval()
    model.load_state_dict(import_published(file, 12682, any_size=True).weights)
    with torch.no_grad():
        projected = model.projector(model.backbone(torch.from_numpy(voxels))).flatten(1)
    expected = torch.nn.functional.normalize(projected, dim=-1)
    np.testing.assert_allclose(predictor.embed(voxels), expected, atol=1e-6)
    tokens = predictor.tokens(voxels, [0, 1])
    assert tokens.shape == (2, *SMALL[kind].targets["clip_tokens"])
    expected = sampled(model, torch.from_numpy(voxels), [0, 1])
    if kind == "257x768":
        expected = expected / expected[:, :1].norm(dim=-1, keepdim=True)
    np.testing.assert_allclose(tokens, expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def sampled(model, voxels, seeds):
    """Return the prior's samples in the scale of the targets, not normalised.

    For all brains at once, as random weights make much of the last bits of a batch.
    """
    condition = model.backbone(voxels)
    generators = [torch_generator(torch.device("cpu"), seed, "sample") for seed in seeds]
    sample = sample_ddpm(
        model.prior.schedule,
        lambda x_t, timestep: model.prior(x_t, timestep, condition),
        lambda step: torch.stack(
            [torch.randn(condition.shape[1:], generator=g) for g in generators]
        ),
    )
    return sample / condition.shape[-1] ** 0.5


@pytest.mark.parametrize(
    ("kind", "embedded"),
    [
        ("257x768", Embed(variants=4)),
        ("1x768", Embed(model=EncoderOptions(final=True))),
        ("autoencoder", Embed(model=EncoderOptions(encoder="autoencoder-kl"))),
    ],
)
def test_targets_have_the_name_that_embedding_gives_them(kind, embedded, tmp_path):
    """Oracle: the embedding job's own name for the set that the kind was trained on."""
    file = write(tmp_path / "last.pth", state_of(kind, voxels=12682))
    folder = tmp_path / "imported"
    main([str(file), "--voxels-of", "subj07", "--any-size", "--out", str(folder)])
    assert set_name(embedded) in read_config(folder).target_sets.values()


def test_data_tells_voxels_and_targets(tiny_shards, tmp_path):
    """Oracle: the manifest as JSON."""
    sizes = Sizes(SMALL["257x768"].model, {"clip_tokens": (NUM_TOKENS, DIM)})
    file = write(tmp_path / "last.pth", state_of("257x768", sizes, NUM_VOXELS))
    folder = tmp_path / "imported"
    arguments = [str(file), "--data-url", str(tiny_shards), "--out", str(folder), "--any-size"]
    main([*arguments, "--targets", "tiny-clip_tokens"])
    verify(folder)
    manifest = json.loads((tiny_shards / "manifest.json").read_text())
    stored = manifest["subjects"]["subj01"]["targets"]["tiny-clip_tokens"]
    shapes = json.loads((folder / "shapes.json").read_text())
    assert shapes["num_voxels"] == NUM_VOXELS
    assert shapes["targets"] == {
        "clip_tokens": {key: stored[key] for key in ("shape", "encoder", "digest")}
    }
    assert json.loads((folder / "config.json").read_text())["data"]["targets"] == "tiny-clip_tokens"


def test_lowlevel_checkpoint_predicts(tmp_path, capsys):
    """Oracle: the module itself, filled with the file's weights."""
    file = write(tmp_path / "epoch120.pth", state_of("autoencoder", voxels=12682))
    folder = tmp_path / "imported"
    main([str(file), "--voxels-of", "subj07", "--any-size", "--out", str(folder)])
    said = capsys.readouterr().out
    sets = ", ".join(f"{k} by {name}" for k, name in mindeye1_lowlevel("x").target_sets.items())
    assert f"digest unknown, so predicted but not evaluated: {sets}" in said
    voxels = np.random.default_rng(0).standard_normal((2, 12682)).astype(np.float32)
    model = build("autoencoder", 12682, SMALL["autoencoder"]).eval()
    model.load_state_dict(import_published(file, 12682, any_size=True).weights)
    with torch.no_grad():
        expected = model.latents(torch.from_numpy(voxels))
    np.testing.assert_allclose(Predictor(folder).latents(voxels), expected, atol=1e-5)


def test_targets_that_are_not_there(tiny_shards, tmp_path):
    sizes = Sizes(SMALL["257x768"].model, {"clip_tokens": (NUM_TOKENS, DIM)})
    file = write(tmp_path / "last.pth", state_of("257x768", sizes, NUM_VOXELS))
    arguments = [str(file), "--data-url", str(tiny_shards), "--out", str(tmp_path / "new")]
    with pytest.raises(SystemExit, match="no clip_tokens 'other' in the manifest"):
        main([*arguments, "--any-size", "--targets", "other"])


def test_targets_of_another_shape(tiny_shards, tmp_path):
    sizes = Sizes(SMALL["257x768"].model, {"clip_tokens": (NUM_TOKENS + 1, DIM)})
    file = write(tmp_path / "last.pth", state_of("257x768", sizes, NUM_VOXELS))
    arguments = [str(file), "--data-url", str(tiny_shards), "--out", str(tmp_path / "new")]
    shape = r"predicts clip_tokens of shape \(6, 16\), tiny-clip_tokens has"
    with pytest.raises(SystemExit, match=shape):
        main([*arguments, "--any-size", "--targets", "tiny-clip_tokens"])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "expected exactly one of them"),
        (["--voxels-of", "subj01", "--data-url", "x"], "expected exactly one of"),
        (["--voxels-of", "subj99"], "--voxels-of: got 'subj99'"),
        (["--voxels-of", "subj01"], "does not fit the model"),
        (["--voxels-of", "subj01", "--any-size"], "of 12682 voxels like subj07 of NSD"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(flags, message, tmp_path):
    file = write(tmp_path / "last.pth", state_of("257x768", voxels=12682))
    with pytest.raises(SystemExit, match=message) as caught:
        main([str(file), "--out", str(tmp_path / "new"), *flags])
    assert str(caught.value).startswith("error: ")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [file]
