"""Teachers: the architecture written out, and ConvNeXt-XL's shapes."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from mindeye_dist.frozen.codecs import resize
from mindeye_dist.frozen.encoders import ImageEncoder
from mindeye_dist.frozen.teachers import ConvNextMap, ConvNextSize, ConvNextTeacher

SMALL = ConvNextSize(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32), width=12)


def images(count=2, side=64, seed=0):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def written_out(state, pixels):
    """Return ConvNeXt's map and its projection, from the paper's figure, with plain functions."""

    def norm(x, key):
        gain, bias = state[f"{key}.weight"], state[f"{key}.bias"]
        return functional.layer_norm(x.movedim(1, -1), gain.shape, gain, bias, 1e-6).movedim(-1, 1)

    def conv(x, key, **how):
        return functional.conv2d(x, state[f"{key}.weight"], state[f"{key}.bias"], **how)

    def linear(x, key):
        return functional.linear(x, state[f"{key}.weight"], state.get(f"{key}.bias"))

    x = norm(conv(pixels, "trunk.stem.0", stride=4), "trunk.stem.1")
    for stage, depth in enumerate(SMALL.depths):
        key = f"trunk.stages.{stage}"
        if stage:
            x = conv(norm(x, f"{key}.downsample.0"), f"{key}.downsample.1", stride=2)
        for number in range(depth):
            block = f"{key}.blocks.{number}"
            hidden = norm(
                conv(x, f"{block}.conv_dw", padding=3, groups=SMALL.dims[stage]), f"{block}.norm"
            ).permute(0, 2, 3, 1)
            hidden = linear(functional.gelu(linear(hidden, f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
            x = x + hidden.permute(0, 3, 1, 2)
    tokens = x.flatten(2).mT
    for first, second in ((0, 1), (3, 4)):
        tokens = linear(tokens, f"projector.{first}")
        tokens = functional.layer_norm(
            tokens,
            (SMALL.width,),
            state[f"projector.{second}.weight"],
            state[f"projector.{second}.bias"],
        ).relu()
    return linear(tokens, "projector.6")


@pytest.mark.parametrize(("published_std", "red"), [(False, 0.229), (True, 0.228)])
def test_convnext_teacher_is_the_architecture_written_out(tmp_path, published_std, red):
    """Oracle: the paper's blocks with plain functions, on weights from a file."""
    state = {
        key: torch.randn(value.shape, generator=torch.Generator().manual_seed(i)) * 0.2
        for i, (key, value) in enumerate(ConvNextMap(SMALL).state_dict().items())
    }
    save_file(state, tmp_path / "teacher.safetensors")
    teacher = ConvNextTeacher(
        tmp_path / "teacher.safetensors", size=SMALL, side_of_map=3, published_std=published_std
    )
    pictures = images(side=80)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([red, 0.224, 0.225])[:, None, None]
    expected = written_out(state, (resize(pictures, 96) - mean) / std)
    assert isinstance(teacher, ImageEncoder)
    assert tuple(expected.shape) == (2, teacher.num_tokens, teacher.dim) == (2, 9, 12)
    torch.testing.assert_close(teacher(pictures), expected, atol=1e-4, rtol=1e-4)


def test_random_weights_depend_on_the_seed_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, other = ConvNextTeacher(1, size=SMALL), ConvNextTeacher(2, size=SMALL)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert ConvNextTeacher(1, size=SMALL).digest == first.digest != other.digest
    published = ConvNextTeacher(1, size=SMALL, published_std=True)
    assert published.digest != first.digest


def test_a_file_with_other_tensors_is_named(tmp_path):
    path = tmp_path / "teacher.safetensors"
    with pytest.raises(ValueError, match=r"teacher\.safetensors: the weights cannot be loaded"):
        ConvNextTeacher(path, size=SMALL)
    save_file(ConvNextMap(SMALL).state_dict(), path)
    tensors = load_file(path)
    tensors["extra"] = tensors.pop("projector.6.weight")
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"projector\.6\.weight.*extra"):
        ConvNextTeacher(path, size=SMALL)


def test_published_size_on_the_meta_device():
    """Oracle: the shapes, layer by layer, from depths 3/3/27/3 and widths 256..2048."""
    depths, dims = (3, 3, 27, 3), (256, 512, 1024, 2048)
    with torch.device("meta"):
        network = ConvNextMap()
        tokens = network(torch.zeros(1, 3, 512, 512))
    assert tuple(tokens.shape) == (1, 256, 512)
    trunk = 3 * 4 * 4 * dims[0] + dims[0] + 2 * dims[0]
    for stage, (depth, dim) in enumerate(zip(depths, dims, strict=True)):
        if stage:
            trunk += 2 * dims[stage - 1] + 4 * dims[stage - 1] * dim + dim
        trunk += depth * (50 * dim + 2 * dim + 8 * dim**2 + 5 * dim)
    projector = 2048 * 512 + 512 + 512 * 512 + 512 + 4 * 512 + 512 * 512
    counts = {
        part: sum(parameter.numel() for parameter in module.parameters())
        for part, module in network.named_children()
    }
    assert counts == {"trunk": trunk, "projector": projector}
