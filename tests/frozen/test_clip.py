"""CLIP targets against transformers' tower of the same weights and Pillow's pixels."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from mindeye_dist.frozen import clip
from mindeye_dist.frozen.clip import DEVIATION, MEAN, ClipTokens, preprocess
from mindeye_dist.frozen.encoders import ImageEncoder

SMALL = "ViT-S-32-alt"
# transformers' name of a part -> open_clip's
RENAMED = {
    "vision_model.embeddings.class_embedding": "class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "positional_embedding",
    "vision_model.pre_layrnorm.": "ln_pre.",
    "vision_model.post_layernorm.": "ln_post.",
    "vision_model.encoder.layers.": "transformer.resblocks.",
    ".layer_norm1.": ".ln_1.",
    ".layer_norm2.": ".ln_2.",
    ".mlp.fc1.": ".mlp.c_fc.",
    ".mlp.fc2.": ".mlp.c_proj.",
    ".self_attn.out_proj.": ".attn.out_proj.",
}


def pictures(count=2, height=160, width=160, seed=0):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def small():
    return ClipTokens("random", architecture=SMALL)


def test_full_size_tokens_are_those_of_transformers(tmp_path):
    """Oracle: CLIPVisionModelWithProjection, ViT-L/14: hidden -> norm -> projection -> / norm."""
    oracle = transformers_tower()
    file = tmp_path / "tower.safetensors"
    save_file(open_clip_names(oracle.state_dict()), file)
    encoder = ClipTokens(str(file))
    file.unlink()
    assert (encoder.name, encoder.num_tokens, encoder.dim) == ("clip-vit-l-14", 257, 768)
    images = pictures(height=256, width=300)
    pixels = preprocess(images, 224, antialias=False)
    with torch.no_grad():
        hidden = oracle.vision_model(pixels).last_hidden_state
        projected = oracle.visual_projection(oracle.vision_model.post_layernorm(hidden))
        embeds = oracle(pixels).image_embeds
    tokens = encoder(images)
    assert tokens.dtype == torch.float32
    torch.testing.assert_close(tokens, projected / embeds[:, None].norm(dim=-1, keepdim=True))
    assert (tokens - tokens.flip(0)).abs().max() > 1e-2, "pictures differ"


def transformers_tower():
    """Return ViT-L/14 with random weights, norms and biases included."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=224,
        patch_size=14,
        projection_dim=768,
        hidden_act="quick_gelu",
    )
    tower = CLIPVisionModelWithProjection(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in tower.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=generator))
    return tower


def open_clip_names(state):
    """Return transformers' weights as open_clip's: attention's three matrices are one there."""
    renamed, parts = {}, {}
    for key, weight in state.items():
        for theirs, ours in RENAMED.items():
            key = key.replace(theirs, ours)
        if key == "visual_projection.weight":
            renamed["visual.proj"] = weight.T.contiguous()
        elif ".self_attn." in key:
            block, part, kind = key.replace(".self_attn.", ".attn.").rsplit(".", 2)
            parts.setdefault(f"visual.{block}.in_proj_{kind}", {})[part] = weight
        elif not key.endswith("position_ids"):
            renamed[f"visual.{key}"] = weight
    for key, part in parts.items():
        renamed[key] = torch.cat([part["q_proj"], part["k_proj"], part["v_proj"]])
    return renamed


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", [(256, 256), (300, 256), (200, 331)])
def test_preprocessing_is_torchvisions(size, antialias):
    """Oracle: torchvision's v1 transforms, which the published code used."""
    from torchvision import transforms

    oracle = transforms.Compose(
        [
            transforms.Resize(
                224, interpolation=transforms.InterpolationMode.BICUBIC, antialias=antialias
            ),
            transforms.CenterCrop(224),
            transforms.Normalize(MEAN, DEVIATION),
        ]
    )
    images = pictures(2, *size)
    torch.testing.assert_close(preprocess(images, 224, antialias=antialias), oracle(images))


def in_unit_range(pixels):
    return pixels * torch.tensor(DEVIATION)[:, None, None] + torch.tensor(MEAN)[:, None, None]


def test_without_antialias_is_plain_bicubic():
    """Oracle: Keys' cubic kernel, a = -0.75, over the four nearest pixels, not widened."""
    row = torch.rand(448, generator=torch.Generator().manual_seed(1))
    images = row.expand(1, 3, 448, 448).contiguous()
    expected = [cubic(row.numpy(), (i + 0.5) * 2 - 0.5) for i in range(224)]
    ours = in_unit_range(preprocess(images, 224, antialias=False)[0])[0, 100]
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-5)
    assert ours.max() > 1 or ours.min() < 0, "overshoot is kept"


def cubic(row, place, a=-0.75):
    """Return the value of a row between its pixels; edges are repeated."""
    first, value = int(np.floor(place)) - 1, 0.0
    for i in range(first, first + 4):
        x = abs(place - i)
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
        value += (near if x <= 1 else far) * row[min(max(i, 0), len(row) - 1)]
    return value


def test_with_antialias_is_pillows():
    """Oracle: Pillow's bicubic resize of the same 8-bit picture, which it rounds twice.

    The picture is pale enough for nothing to overshoot, since Pillow would clip it.
    """
    coarse = np.random.default_rng(0).integers(60, 196, (40, 40, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((448, 448), Image.Resampling.BICUBIC)
    expected = np.asarray(picture.resize((224, 224), Image.Resampling.BICUBIC), np.float32)
    images = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255
    ours = in_unit_range(preprocess(images, 224, antialias=True)[0]).permute(1, 2, 0) * 255
    assert np.abs(ours.numpy() - expected).max() < 2


def test_token_0_has_unit_norm_and_the_others_keep_theirs(small):
    """Oracle: the same tower without the division."""
    raw = ClipTokens("random", architecture=SMALL, norm_tokens=False)(pictures())
    expected = raw / raw[:, :1].norm(dim=-1, keepdim=True)
    torch.testing.assert_close(small(pictures()), expected)
    assert raw.shape == (2, 50, 256)


def test_final_is_the_image_embedding(small):
    """Oracle: open_clip's own `encode_image` path, the tower called as it is."""
    final = ClipTokens("random", architecture=SMALL, final=True)
    pixels = preprocess(pictures(), 224, antialias=False)
    expected, _ = small._tower(pixels)
    torch.testing.assert_close(final(pictures()), expected[:, None])
    assert (final.name, final.num_tokens) == ("clip-vit-s-32-alt-final", 1)


def test_pictures_do_not_see_each_other(small):
    together = small(pictures(3))
    alone = torch.cat([small(picture[None]) for picture in pictures(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_digest_says_what_the_numbers_depend_on(small):
    assert isinstance(small, ImageEncoder)
    same = ClipTokens("random", architecture=SMALL)
    others = [
        ClipTokens("random", architecture=SMALL, **options)
        for options in ({"seed": 1}, {"antialias": True}, {"final": True}, {"norm_tokens": False})
    ]
    assert small.digest == same.digest
    assert len({small.digest, *(other.digest for other in others)}) == 5
    assert len(small.digest) == len(hashlib.sha256().hexdigest())


def test_random_weights_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    ClipTokens("random", architecture=SMALL)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_of_a_file_are_read_with_and_without_prefix(small, tmp_path):
    state = {key: weight.half() for key, weight in small._tower.state_dict().items()}
    save_file(state, tmp_path / "tower.safetensors")
    whole = {f"visual.{key}": weight for key, weight in state.items()}
    save_file({**whole, "logit_scale": torch.ones(1)}, tmp_path / "clip.safetensors")
    tower, model = (
        ClipTokens(str(tmp_path / name), architecture=SMALL)
        for name in ("tower.safetensors", "clip.safetensors")
    )
    assert tower.digest == model.digest != small.digest
    torch.testing.assert_close(tower(pictures()), small(pictures()), rtol=0.0, atol=5e-3)


def test_published_activation(monkeypatch):
    """The tag's own word: OpenAI's weights want QuickGELU; nothing is downloaded here."""
    monkeypatch.setattr("open_clip.pretrained.download_pretrained", lambda *_, **__: "fetched")
    config = clip._plain_config(clip.PUBLISHED)
    assert config["quick_gelu"] is True
    assert clip._weights_file("openai", clip.PUBLISHED, config).name == "fetched"
    with pytest.raises(ValueError, match="'openai' were trained with quick_gelu=True, ViT-L-14 h"):
        ClipTokens("openai", architecture="ViT-L-14")
    with pytest.raises(ValueError, match=r"trained with mean \(0.5, 0.5, 0.5\)"):
        ClipTokens("laion2b_s32b_b82k", architecture="ViT-L-14")


def test_weights_that_cannot_be_had_are_named(monkeypatch):
    def offline(*_, **__):
        raise FileNotFoundError("no route to the hub")

    monkeypatch.setattr("open_clip.pretrained.download_pretrained", offline)
    with pytest.raises(ValueError, match="weights 'openai' of ViT-L-14-quickgelu cannot be had: n"):
        ClipTokens("openai")


def test_what_does_not_fit_is_said(small, tmp_path):
    with pytest.raises(ValueError, match="'ViT-L-13': not one of"):
        ClipTokens("random", architecture="ViT-L-13")
    with pytest.raises(ValueError, match=r"'RN50': .* convolutional layers"):
        ClipTokens("random", architecture="RN50")
    with pytest.raises(ValueError, match="pool_type"):
        ClipTokens("random", architecture="ViT-L-14-CLIPA")
    with pytest.raises(ValueError, match="'nowhere': neither a file nor one of"):
        ClipTokens("nowhere")
    (tmp_path / "no.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"no\.safetensors is not a safetensors file"):
        ClipTokens(str(tmp_path / "no.safetensors"))
    save_file(small._tower.state_dict(), tmp_path / "small.safetensors")
    with pytest.raises(ValueError, match=r"small\.safetensors: not this tower's weights"):
        ClipTokens(str(tmp_path / "small.safetensors"), architecture="ViT-B-32")
