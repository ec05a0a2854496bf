"""Files as the published ones are, read whole or refused with everything that is wrong."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mindeye_dist.errors import CheckpointError
from mindeye_dist.ingest.mindeye1_names import our_name
from mindeye_dist.ingest.mindeye1_weights import (
    PUBLISHED_SIZES,
    Sizes,
    build,
    derived_values,
    import_published,
    published_shapes,
    read_state_dict,
    schedule_tables,
    write_checkpoint,
)
from mindeye_dist.model_config import (
    BackboneConfig,
    LowLevelConfig,
    ModelConfig,
    PriorConfig,
    ProjectorConfig,
)
from mindeye_dist.runs.checkpoints import verify
from tests.reference.test_models import fill

VOXELS = 30
NARROW = ModelConfig(
    backbone=BackboneConfig(hidden=8),
    projector=ProjectorConfig(hidden=12),
    prior=PriorConfig(heads=2, head_dim=8),
    lowlevel=LowLevelConfig(
        hidden=8, map_channels=4, upsampler_channels=(8, 12, 16), head_hidden=10
    ),
)
SMALL = {
    "257x768": Sizes(NARROW, {"clip_tokens": (5, 16)}),
    "1x768": Sizes(
        replace(
            NARROW,
            prior=PriorConfig(
                form="query",
                depth=12,
                heads=2,
                head_dim=8,
                timesteps=20,
                padding_tokens=6,
                condition_dropout=0.0,
            ),
        ),
        {"clip_tokens": (1, 16)},
    ),
    "autoencoder": Sizes(
        ModelConfig(lowlevel=NARROW.lowlevel), {"latents": (4, 16, 16), "feature_map": (16, 6)}
    ),
}
SMALL["257x768"] = Sizes(replace(NARROW, lowlevel=LowLevelConfig()), SMALL["257x768"].targets)
SMALL["1x768"] = Sizes(
    replace(SMALL["1x768"].model, lowlevel=LowLevelConfig()), SMALL["1x768"].targets
)


def state_of(kind, sizes=None, voxels=VOXELS):
    """Return a full list of published keys at small width, with the recipe's values."""
    sizes = sizes or SMALL[kind]
    shapes = published_shapes(kind, voxels, sizes)
    derived = derived_values(kind, sizes)
    return {
        name: torch.from_numpy(derived[name]).float() if name in derived else fill(name, shape)
        for name, shape in shapes.items()
    }


def write(path, state, prefix=""):
    """Write a file as the published trainer does, with its optimizer's state beside the weights."""
    moments = {i: {"exp_avg": value, "exp_avg_sq": value} for i, value in enumerate(state.values())}
    torch.save(
        {
            "epoch": 239,
            "model_state_dict": {prefix + name: value for name, value in state.items()},
            "optimizer_state_dict": {"state": moments, "param_groups": [{"lr": 1e-4}]},
            "train_losses": [1.0],
            "val_losses": [2.0],
            "lrs": [3e-4],
        },
        path,
    )
    return path


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("kind", SMALL)
def test_every_tensor_arrives(kind, prefix, tmp_path):
    state = state_of(kind)
    imported = import_published(write(tmp_path / "last.pth", state, prefix), VOXELS, any_size=True)
    assert (imported.kind, imported.sizes) == (kind, SMALL[kind])
    assert imported.left_out == (
        "epoch",
        "optimizer_state_dict",
        "train_losses",
        "val_losses",
        "lrs",
    )
    assert len(imported.weights) + len(imported.compared) == len(state)
    build(kind, VOXELS, imported.sizes).load_state_dict(imported.weights, strict=True)
    # By value, not by name: no tensor is lost, doubled or changed on the way.
    there = sorted(v.double().sum().item() for n, v in state.items() if n not in imported.compared)
    assert sorted(v.double().sum().item() for v in imported.weights.values()) == there


def test_bare_state_dict_and_half_precision(tmp_path):
    state = {name: value.bfloat16() for name, value in state_of("autoencoder").items()}
    torch.save(state, tmp_path / "bare.pth")
    imported = import_published(tmp_path / "bare.pth", VOXELS, any_size=True)
    assert {value.dtype for value in imported.weights.values()} == {torch.float32}
    assert imported.left_out == ()


@pytest.mark.parametrize(
    "form",
    [torch.nn.Parameter, torch.Tensor.half, torch.Tensor.bfloat16, torch.Tensor.double]
    + [lambda value: value.to(torch.float8_e4m3fn)],
    ids=["parameter", "half", "bfloat16", "double", "float8"],
)
def test_weights_in_any_form_that_holds_values(form, tmp_path):
    """Oracle: the same conversion in memory; derived values stay as they are published."""
    state = state_of("257x768")
    derived = derived_values("257x768", SMALL["257x768"])
    state = {name: value if name in derived else form(value) for name, value in state.items()}
    path = write(tmp_path / "last.pth", state)
    imported = import_published(path, VOXELS, any_size=True)
    name = "voxel2clip.lin1.weight"
    assert torch.equal(imported.weights[our_name(name, "257x768")], state[name].detach().float())
    assert not any(value.requires_grad for value in imported.weights.values())
    # The comparison reads them as numbers, too.
    state["noise_scheduler.betas"] = form(state["noise_scheduler.betas"] + 0.5)
    message = refused(write(tmp_path / "last.pth", state))
    assert "noise_scheduler.betas differs from the model's by up to 0." in message


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants:UserWarning")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.eye(3).to_sparse(), "a (sparse_coo)"),
        (lambda: torch.ones(3, device="meta"), "a (without values)"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "a (nested)"),
        (lambda: torch.ones(0, 3), "a (empty)"),
    ],
)
def test_tensors_that_are_no_arrays_are_refused(make, message, tmp_path):
    torch.save({"a": make()}, tmp_path / "e.pth")
    assert f"expected dense tensors with values, got {message}" in refused(tmp_path / "e.pth")


def test_schedule_tables_by_their_recursion():
    """Oracle: one step after another, in the order of the process; a thousand steps as in 1x768."""
    tables = schedule_tables(1000)
    kept = 1.0
    for t, beta in enumerate(tables["betas"]):
        before, kept = kept, kept * (1 - beta)
        ours = {name: table[t] for name, table in tables.items()}
        np.testing.assert_allclose(ours["alphas_cumprod_prev"], before, rtol=1e-9)
        np.testing.assert_allclose(ours["alphas_cumprod"], kept, rtol=1e-9)
        np.testing.assert_allclose(ours["sqrt_alphas_cumprod"] ** 2, kept, rtol=1e-9)
        np.testing.assert_allclose(ours["sqrt_one_minus_alphas_cumprod"] ** 2, 1 - kept, rtol=1e-9)
        np.testing.assert_allclose(np.exp(ours["log_one_minus_alphas_cumprod"]), 1 - kept, 1e-9)
        np.testing.assert_allclose(ours["sqrt_recip_alphas_cumprod"] ** -2, kept, rtol=1e-9)
        np.testing.assert_allclose(ours["sqrt_recipm1_alphas_cumprod"] ** 2, 1 / kept - 1, 1e-9)
        variance = beta * (1 - before) / (1 - kept)
        np.testing.assert_allclose(ours["posterior_variance"], variance, rtol=1e-9)
        logarithm = np.log(max(variance, 1e-20))
        np.testing.assert_allclose(ours["posterior_log_variance_clipped"], logarithm, rtol=1e-9)
    assert tables["betas"].max() == pytest.approx(0.999)
    assert set(tables["p2_loss_weight"]) == {1.0}


def refused(path, voxels=VOXELS, any_size=True):
    with pytest.raises(CheckpointError) as caught:
        import_published(path, voxels, any_size=any_size)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_everything_that_does_not_fit_is_listed_at_once(tmp_path):
    state = state_of("257x768")
    state["net.learned_query"] = torch.zeros(5, 15)
    state["net.stranger"] = torch.zeros(1)
    del state["voxel2clip.mlp.2.1.bias"], state["noise_scheduler.p2_loss_weight"]
    message = refused(write(tmp_path / "last.pth", state))
    assert "missing voxel2clip.mlp.2.1.bias" in message
    assert "missing noise_scheduler.p2_loss_weight" in message
    assert "unexpected net.stranger" in message
    assert "net.learned_query is (5, 15), the model has (5, 16)" in message


def test_weights_of_another_subject(tmp_path):
    path = write(tmp_path / "e.pth", state_of("autoencoder", voxels=14278))
    message = refused(path, 15724)
    assert "of 14278 voxels like subj02 of NSD, the subject has 15724" in message
    assert "lin0.0.weight is (8, 14278)" in message


@pytest.mark.parametrize("kind", SMALL)
def test_another_width_is_not_the_published_model(kind, tmp_path):
    path = write(tmp_path / "last.pth", state_of(kind))
    assert "the model has (4096," in refused(path, any_size=False)
    assert PUBLISHED_SIZES[kind] != SMALL[kind]


@pytest.mark.parametrize(
    "name",
    ["noise_scheduler.alphas_cumprod", "net.causal_transformer.layers.3.0.rotary_emb.freqs"],
)
def test_derived_values_that_differ(name, tmp_path):
    state = state_of("257x768")
    state[name] = state[name] + 0.01
    message = refused(write(tmp_path / "last.pth", state))
    assert f"{name} differs from the model's by up to 0.01" in message


def test_weights_that_are_not_finite(tmp_path):
    state = state_of("autoencoder")
    state["lin1.weight"][3, 2] = float("nan")
    state["norm.bias"][0] = float("inf")
    message = refused(write(tmp_path / "e.pth", state))
    assert "lin1.weight is not finite; norm.bias is not finite" in message


class Stranger:
    """Something that only unpickling could bring back."""


def test_more_than_tensors(tmp_path):
    torch.save({"model_state_dict": state_of("autoencoder"), "x": Stranger()}, tmp_path / "e.pth")
    assert "Stranger, expected tensors and plain values" in refused(tmp_path / "e.pth")


def test_files_that_are_not_whole(tmp_path):
    path = write(tmp_path / "e.pth", state_of("autoencoder"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "no whole file of torch.save" in refused(path)
    with zipfile.ZipFile(tmp_path / "e.pth", "w") as file:
        file.writestr("archive/data.txt", "nothing")
    assert "cannot be read" in refused(path)
    assert "cannot be read" in refused(tmp_path / "none.pth")
    middle = whole.index(state_of("autoencoder")["lin1.weight"].numpy().tobytes())
    path.write_bytes(whole[:middle] + b"\xff\xff" + whole[middle + 2 :])
    assert "is not what its checksum says" in refused(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "got a list"),
        ({}, "got a dict"),
        ({"model_state_dict": {"a": 3}}, "no floating-point tensors: a"),
        ({"a": torch.zeros(2, dtype=torch.int64)}, "no floating-point tensors: a"),
        ({"a": torch.zeros(2)}, "of no published kind"),
        ({"a": torch.zeros(2), "module.a": torch.zeros(2)}, "both with and without"),
    ],
)
def test_files_of_something_else(content, message, tmp_path):
    torch.save(content, tmp_path / "e.pth")
    assert message in refused(tmp_path / "e.pth")


def test_the_file_is_mapped_and_not_read(tmp_path):
    """Oracle: the kernel's list of mappings."""
    tensors, _ = read_state_dict(write(tmp_path / "e.pth", state_of("autoencoder")))
    lines = Path("/proc/self/maps").read_text().splitlines()
    mapped = next(line for line in lines if line.endswith(str(tmp_path / "e.pth")))
    start, end = (int(number, 16) for number in mapped.split()[0].split("-"))
    assert all(start <= tensor.data_ptr() < end for tensor in tensors.values())


def test_checkpoint_folder_is_whole_or_not_there(tmp_path):
    state = state_of("autoencoder")
    imported = import_published(write(tmp_path / "e.pth", state), VOXELS, any_size=True)
    folder = tmp_path / "new" / "checkpoint"
    write_checkpoint(folder, imported, {"config.json": {"a": 1}})
    verify(folder)
    stored = load_file(folder / "model.safetensors")
    assert torch.equal(stored["head.0.weight"], state["maps_projector.0.weight"])
    assert json.loads((folder / "state.json").read_text())["step"] == 0
    with pytest.raises(CheckpointError, match="exists already"):
        write_checkpoint(folder, imported, {"config.json": {}})
    blocked = tmp_path / "e.pth" / "checkpoint"
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_checkpoint(blocked, imported, {"config.json": {}})
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoint"]
