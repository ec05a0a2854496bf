"""Published key names and sizes against lists written out from the released models' description."""

import math

import pytest
import torch

from mindeye_dist.ingest.mindeye1_names import kind_of, our_name, published_name
from mindeye_dist.ingest.mindeye1_weights import PUBLISHED_SIZES, build, published_shapes, sizes_of
from mindeye_dist.models.lowlevel import LowLevel
from mindeye_dist.models.mindeye import MindEye

SUBJECTS = {"subj01": 15724, "subj02": 14278, "subj05": 13039, "subj07": 12682}
H = 4096


def pair(name, *shape):
    """Return a layer's weight, and its bias of as many entries as the weight has rows."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def residual_mlp(prefix, voxels, outputs, bias):
    linear = pair if bias else lambda name, *shape: {f"{name}.weight": shape}
    shapes = linear(f"{prefix}lin0.0", H, voxels) | pair(f"{prefix}lin0.1", H)
    for i in range(4):
        shapes |= linear(f"{prefix}mlp.{i}.0", H, H) | pair(f"{prefix}mlp.{i}.1", H)
    return shapes | linear(f"{prefix}lin1", outputs, H)


def projector():
    name = "voxel2clip.projector"
    return (
        pair(f"{name}.0", 768)
        | pair(f"{name}.2", 2048, 768)
        | pair(f"{name}.3", 2048)
        | pair(f"{name}.5", 2048, 2048)
        | pair(f"{name}.6", 2048)
        | pair(f"{name}.8", 768, 2048)
    )


def transformer(depth, timesteps):
    tables = (
        "betas alphas_cumprod alphas_cumprod_prev sqrt_alphas_cumprod sqrt_one_minus_alphas_cumprod"
        " log_one_minus_alphas_cumprod sqrt_recip_alphas_cumprod sqrt_recipm1_alphas_cumprod"
        " posterior_variance posterior_log_variance_clipped posterior_mean_coef1"
        " posterior_mean_coef2 p2_loss_weight"
    )
    shapes = {f"noise_scheduler.{table}": (timesteps,) for table in tables.split()}
    root = "net.causal_transformer"
    shapes[f"{root}.rel_pos_bias.relative_attention_bias.weight"] = (32, 12)
    for layer in range(depth):
        shapes |= {
            f"{root}.layers.{layer}.0.null_kv": (2, 64),
            f"{root}.layers.{layer}.0.norm.g": (768,),
            f"{root}.layers.{layer}.0.to_q.weight": (768, 768),
            f"{root}.layers.{layer}.0.to_kv.weight": (128, 768),
            f"{root}.layers.{layer}.0.rotary_emb.freqs": (16,),
            f"{root}.layers.{layer}.0.to_out.0.weight": (768, 768),
            f"{root}.layers.{layer}.0.to_out.1.g": (768,),
            f"{root}.layers.{layer}.1.0.g": (768,),
            f"{root}.layers.{layer}.1.1.weight": (6144, 768),
            f"{root}.layers.{layer}.1.5.weight": (768, 3072),
        }
    return shapes | {f"{root}.norm.g": (768,), f"{root}.project_out.weight": (768, 768)}


def highlevel(voxels):
    return (
        residual_mlp("voxel2clip.", voxels, 257 * 768, bias=True)
        | projector()
        | transformer(6, 100)
        | dict.fromkeys(
            ("net.learned_query", "net.null_brain_embeds", "net.null_image_embed"), (257, 768)
        )
        | pair("net.to_time_embeds.0.1.net.0.0", 1536, 768)
        | pair("net.to_time_embeds.0.1.net.1.0", 1536, 1536)
        | pair("net.to_time_embeds.0.1.net.2", 768, 1536)
    )


def single_token(voxels):
    inner = {f"net.causal_transformer.layers.{i}.1.3.g": (3072,) for i in range(12)}
    return (
        residual_mlp("voxel2clip.", voxels, 768, bias=True)
        | projector()
        | transformer(12, 1000)
        | inner
        | {
            "net.learned_query": (768,),
            "net.null_text_encodings": (1, 256, 768),
            "net.null_text_embeds": (1, 1, 768),
            "net.null_image_embed": (1, 768),
            "net.to_time_embeds.0.weight": (1000, 768),
        }
    )


def resnet(name, width_in, width):
    return (
        pair(f"{name}.norm1", width_in)
        | pair(f"{name}.conv1", width, width_in, 3, 3)
        | pair(f"{name}.norm2", width)
        | pair(f"{name}.conv2", width, width, 3, 3)
        | (pair(f"{name}.conv_shortcut", width, width_in, 1, 1) if width_in != width else {})
    )


def upsampler():
    root = "upsampler"
    shapes = pair(f"{root}.conv_in", 256, 64, 3, 3)
    for i in range(2):
        shapes |= resnet(f"{root}.mid_block.resnets.{i}", 256, 256)
    attention = f"{root}.mid_block.attentions.0"
    shapes |= pair(f"{attention}.group_norm", 256)
    for name in ("query", "key", "value", "proj_attn"):
        shapes |= pair(f"{attention}.{name}", 256, 256)
    for i, (width_in, width) in enumerate(((256, 256), (256, 128), (128, 64))):
        block = f"{root}.up_blocks.{i}"
        shapes |= resnet(f"{block}.resnets.0", width_in, width)
        shapes |= resnet(f"{block}.resnets.1", width, width)
        if i < 2:
            shapes |= pair(f"{block}.upsamplers.0.conv", width, width, 3, 3)
    return shapes | pair(f"{root}.conv_norm_out", 64) | pair(f"{root}.conv_out", 4, 64, 3, 3)


def autoencoder(voxels):
    return (
        residual_mlp("", voxels, 64 * 16 * 16, bias=False)
        | pair("norm", 64)
        | upsampler()
        | {"maps_projector.0.weight": (512, 64, 1, 1), "maps_projector.3.weight": (512, 512, 1, 1)}
        | pair("maps_projector.1", 512)
        | pair("maps_projector.4", 512)
        | pair("maps_projector.6", 512, 512, 1, 1)
    )


WRITTEN_OUT = {"257x768": highlevel, "1x768": single_token, "autoencoder": autoencoder}


@pytest.mark.parametrize("voxels", SUBJECTS.values(), ids=list(SUBJECTS))
@pytest.mark.parametrize("kind", WRITTEN_OUT)
def test_keys_and_shapes(kind, voxels):
    expected = WRITTEN_OUT[kind](voxels)
    assert published_shapes(kind, voxels) == expected
    assert kind_of(expected) == kind
    assert sizes_of(kind, expected) == PUBLISHED_SIZES[kind]


def test_numbers_of_keys():
    counts = {kind: len(published_shapes(kind, 15724)) for kind in WRITTEN_OUT}
    assert (counts["257x768"], counts["autoencoder"]) == (119, 114)


@pytest.mark.parametrize("kind", WRITTEN_OUT)
def test_names_go_both_ways(kind):
    ours = [our_name(name, kind) for name in published_shapes(kind, 100)]
    ours = [name for name in ours if name is not None]
    assert len(set(ours)) == len(ours)
    for name in ours:
        assert our_name(published_name(name, kind), kind) == name


def test_names_of_no_model():
    with pytest.raises(ValueError, match=r"net\.what: not a key of the published 257x768"):
        our_name("net.what", "257x768")
    with pytest.raises(ValueError, match="has no such tensor"):
        published_name("prior.time.weight", "257x768")
    with pytest.raises(ValueError, match="of no published kind"):
        kind_of(["voxel2clip.lin1.weight"])


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def frozen(kind):
    """Return how many rotary frequencies the published module counts: one tensor, shared."""
    return math.prod(
        published_shapes(kind, 100)["net.causal_transformer.layers.0.0.rotary_emb.freqs"]
    )


def on_meta(kind, subject):
    with torch.device("meta"):
        return build(kind, SUBJECTS[subject], PUBLISHED_SIZES[kind])


@pytest.mark.parametrize(
    ("subject", "backbone", "voxel2clip", "whole"),
    [
        ("subj01", 940_225_280, 947_579_904, 1_003_635_088),
        ("subj02", 934_302_464, 941_657_088, 997_712_272),
        ("subj05", 929_227_520, 936_582_144, 992_637_328),
        ("subj07", 927_765_248, 935_119_872, 991_175_056),
    ],
)
def test_parameters_of_257x768(subject, backbone, voxel2clip, whole):
    model = on_meta("257x768", subject)
    assert isinstance(model, MindEye)
    assert parameters(model.backbone) == backbone
    assert parameters(model.projector) == 7_354_624
    assert parameters(model.backbone) + parameters(model.projector) == voxel2clip
    assert frozen("257x768") == 16
    assert parameters(model.prior) + 16 == 56_055_184
    assert parameters(model) + 16 == whole


@pytest.mark.parametrize(
    ("subject", "voxel2clip", "whole"),
    [
        ("subj01", 142_076_928, 243_970_960),
        ("subj02", 136_154_112, 238_048_144),
        ("subj05", 131_079_168, 232_973_200),
        ("subj07", 129_616_896, 231_510_928),
    ],
)
def test_parameters_of_1x768(subject, voxel2clip, whole):
    model = on_meta("1x768", subject)
    assert parameters(model.backbone) + parameters(model.projector) == voxel2clip
    assert frozen("1x768") == 16
    assert parameters(model.prior) + 16 == 101_894_032
    assert parameters(model) + 16 == whole


def test_parameters_of_the_1x768_backbone():
    assert parameters(on_meta("1x768", "subj01").backbone) == 134_722_304


@pytest.mark.parametrize(
    ("subject", "whole"),
    [
        ("subj01", 206_065_604),
        ("subj02", 200_142_788),
        ("subj05", 195_067_844),
        ("subj07", 193_605_572),
    ],
)
def test_parameters_of_the_autoencoder(subject, whole):
    model = on_meta("autoencoder", subject)
    assert isinstance(model, LowLevel)
    assert parameters(model) == whole
    assert parameters(model) - parameters(model.head) == whole - (206_065_604 - 205_505_988)
    assert parameters(model.upsampler) == 6_841_668
