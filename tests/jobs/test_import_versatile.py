"""The import of Versatile Diffusion: pickled weights -> the same generator, or an error."""

import pytest
import torch

from jobs.import_versatile import main
from mindeye_dist.generators.versatile import VersatileDiffusion
from tests import tiny_pipelines as tiny

# diffusers' UniPC makes NumPy arrays of tensors in a way that NumPy 2 will not have for ever.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def as_in_2022(key):
    """Return the key that the autoencoder's attention had when Versatile Diffusion was saved."""
    for new, old in (
        ("to_q", "query"),
        ("to_k", "key"),
        ("to_v", "value"),
        ("to_out.0", "proj_attn"),
    ):
        key = key.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
    return key


def test_published_pickles_become_safetensors(tmp_path, capsys):
    """Oracle: the same pipeline saved as safetensors in the first place."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    folder = tiny.save_versatile(tmp_path / "saved")
    pickled = tiny.save_versatile(tmp_path / "pickled")
    for kind, part in ((UNet2DConditionModel, "image_unet"), (AutoencoderKL, "vae")):
        network = kind.from_pretrained(pickled / part)
        (pickled / part / "diffusion_pytorch_model.safetensors").unlink()
        network.save_pretrained(pickled / part, safe_serialization=False)
    path = pickled / "vae/diffusion_pytorch_model.bin"
    tensors = torch.load(path, weights_only=True)
    torch.save({as_in_2022(key): value for key, value in tensors.items()}, path)
    with pytest.raises(ValueError, match="unet: has no safetensors; .python jobs/import_versatile"):
        VersatileDiffusion(pickled)
    main([str(pickled), "--out", str(tmp_path / "converted")])
    converted, original = VersatileDiffusion(tmp_path / "converted"), VersatileDiffusion(folder)
    tokens = torch.randn(2, 257, tiny.DIM, generator=torch.Generator().manual_seed(1))
    assert torch.equal(converted(tokens, [3, 4]), original(tokens, [3, 4]))
    assert converted.digest == original.digest
    assert converted.digest in capsys.readouterr().out


def test_what_is_no_pipeline_is_one_line(tmp_path):
    with pytest.raises(SystemExit, match=r"^error: .*image_unet: no such folder"):
        main([str(tmp_path), "--out", str(tmp_path / "out")])
    assert list(tmp_path.iterdir()) == []
