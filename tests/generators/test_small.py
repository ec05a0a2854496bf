"""The project's own generator. Oracles: closed forms, one picture at a time, what was saved."""

import pytest
import torch
from torch.nn import functional

from mindeye_dist.frozen.codecs import PixelCodec
from mindeye_dist.generators.config import GeneratorConfig, Imperfection
from mindeye_dist.generators.small import SmallGenerator, codec_of, generator_loss, sampler
from mindeye_dist.generators.small_network import PictureTransformer
from mindeye_dist.shapes import TargetShape

CONFIG = GeneratorConfig(
    patch=4, width=32, depth=2, heads=2, guess_width=16, guess_depth=1, steps=4, guidance=1.0
)
TARGETS = TargetShape((5, 6), "an-encoder", "digest-of-an-encoder")
SIDE = 16


def transformer(tokens=5):
    torch.manual_seed(0)
    network = PictureTransformer(CONFIG, (3, SIDE, SIDE), (tokens, 6))
    # As made it answers zeros, whatever it is given.
    torch.nn.init.normal_(network.last.weight, std=0.1)
    torch.nn.init.normal_(network.modulation.weight, std=0.3)
    return network


def generator(**changes):
    config = GeneratorConfig(**(vars(CONFIG) | changes))
    return SmallGenerator(transformer(), config, PixelCodec(SIDE), TARGETS, about={"a": 1})


def tokens(count, seed=0):
    return torch.randn(count, 5, 6, generator=torch.Generator().manual_seed(seed))


def test_a_picture_does_not_depend_on_its_batch():
    made = generator()
    together = made(tokens(3), [1, 2, 3])
    alone = torch.cat([made(tokens(3)[n : n + 1], [n + 1]) for n in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


def test_seed_and_every_token_count():
    """Another seed, another summary and another place of the map each give another picture."""
    made, base = generator(), tokens(1)
    picture = made(base, [1])
    for changed, seed in ((0, 1), (1, 1), (4, 1), (None, 2)):
        other = base.clone()
        if changed is not None:
            other[:, changed] += 3
        assert (made(other, [seed]) - picture).abs().max() > 1e-3


def test_the_map_lies_over_the_picture():
    """A token of the map moves most the features of the patches that it lies over."""
    decoder, base = transformer().guess, tokens(1)
    quarters = []
    with torch.no_grad():
        for token in range(1, 5):  # a 2 x 2 map over 4 x 4 patches
            other = base.clone()
            other[:, token] += 3
            moved = (decoder(other) - decoder(base)).abs().mean(dim=(0, 1))
            quarters.append(functional.avg_pool2d(moved[None], 2).flatten().argmax().item())
    assert quarters == [0, 1, 2, 3]


def test_strength_goes_from_the_initial_picture_to_none_of_it():
    made, base = generator(), tokens(2)
    init = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    round_trip = made.codec.decode(made.codec.encode(init))
    torch.testing.assert_close(made(base, [1, 2], init, 0.0), round_trip, atol=1e-6, rtol=0)
    torch.testing.assert_close(made(base, [1, 2], init, 1.0), made(base, [1, 2]))
    assert not torch.allclose(made(base, [1, 2], init, 0.75), made(base, [1, 2]), atol=1e-3)


def test_guidance_moves_away_from_no_tokens():
    """X = without + guidance (with - without), in a single step from noise."""
    network, x, t = transformer(), torch.randn(1, 3, SIDE, SIDE), torch.tensor(500)
    network.eval()
    with torch.no_grad():
        seen, blind = network.guess(tokens(1)), network.guess(torch.zeros(1, 5, 6))
        clean, without = network(x, t[None], seen), network(x, t[None], blind)
        guided = generator(guidance=3.0)._predict(x, t, seen, blind)
    torch.testing.assert_close(guided, without + 3 * (clean - without))


def watched():
    """Return a network that answers zeros, guesses ones, and what it saw: tokens, timesteps."""
    network, seen = PictureTransformer(CONFIG, (3, SIDE, SIDE), (5, 6)), ([], [])
    torch.nn.init.zeros_(network.last.bias)
    torch.nn.init.zeros_(network.guess.last.weight)
    torch.nn.init.ones_(network.guess.last.bias)
    network.guess.register_forward_pre_hook(lambda _, given: seen[0].append(given[0]))
    network.register_forward_pre_hook(lambda _, given: seen[1].append(given[1]))
    return network, *seen


def test_loss_is_the_weighted_error_of_an_independent_loop():
    schedule = sampler().alphas_cumprod
    latents, given = torch.randn(6, 3, SIDE, SIDE), tokens(6)
    network, asked, timesteps = watched()
    loss = generator_loss(
        network,
        schedule,
        latents,
        given,
        Imperfection(dropout=0.0, noise=0.0),
        torch.Generator().manual_seed(3),
    )
    expected = 0.0
    for clean, timestep in zip(latents, timesteps[0], strict=True):
        kept = float(schedule[timestep])
        expected += min(1 + kept / (1 - kept), 5) * float((clean**2).mean()) / 6
        expected += float(((clean - 1) ** 2).mean()) / 6
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert torch.equal(asked[0], given)


def test_imperfection_drops_and_blurs():
    """Dropout of all but 1e-9 leaves no token; noise moves them, by no more than its level."""
    network, asked, _ = watched()
    for imperfection in (Imperfection(dropout=1 - 1e-9), Imperfection(dropout=0.0, noise=0.5)):
        generator_loss(
            network,
            sampler().alphas_cumprod,
            torch.randn(200, 3, SIDE, SIDE),
            tokens(200),
            imperfection,
            torch.Generator().manual_seed(0),
        )
    dropped, blurred = asked
    assert not dropped.any()
    levels = (blurred - tokens(200)).flatten(1).std(dim=1) / tokens(200).std()
    assert levels.min() < 0.05
    assert 0.45 < levels.max() < 0.65


@pytest.mark.parametrize(
    ("kind", "setting", "value", "expected"),
    [
        (Imperfection, "dropout", 1.0, "0 or more, less than 1"),
        (Imperfection, "dropout", -0.1, "0 or more, less than 1"),
        (Imperfection, "noise", -1.0, "a number of 0 or more"),
        (Imperfection, "noise", float("nan"), "a number of 0 or more"),
        (GeneratorConfig, "guidance", 0.5, "a number of at least 1"),
        (GeneratorConfig, "guidance", float("nan"), "a number of at least 1"),
        (GeneratorConfig, "guidance", float("inf"), "a number of at least 1"),
    ],
)
def test_ruinous_settings_are_refused(kind, setting, value, expected):
    with pytest.raises(ValueError, match=f"{setting}: got {value}, expected {expected}"):
        kind(**{setting: value})


def test_what_is_saved_is_loaded(tmp_path):
    path, made = tmp_path / "generator.safetensors", generator()
    made.save(path)
    assert codec_of(path) == ("pixels", (3, SIDE, SIDE))
    loaded = SmallGenerator.load(path, codec=PixelCodec(SIDE))
    assert (loaded.targets, loaded.about, loaded.config) == (TARGETS, {"a": 1}, CONFIG)
    again = SmallGenerator.load(path, codec=PixelCodec(SIDE))
    assert loaded.digest == again.digest
    # Half precision is all that the file loses.
    torch.testing.assert_close(
        loaded(tokens(2), [1, 2]), made(tokens(2), [1, 2]), atol=5e-3, rtol=0
    )
    changed = SmallGenerator.load(path, codec=PixelCodec(SIDE), steps=2, guidance=2.0)
    assert (changed.config.steps, changed.config.guidance) == (2, 2.0)
    assert changed.digest != loaded.digest


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tokens": torch.zeros(2, 4, 6)}, r"got tokens \(2, 4, 6\), expected \(batch, 5, 6\)"),
        ({"tokens": torch.full((2, 5, 6), torch.nan)}, "tokens of 2 of 2 are not finite"),
        ({"seeds": [1]}, "got 1 seeds for 2 pictures"),
        ({"init": torch.zeros(1, 3, 8, 8)}, "got 1 initial pictures for 2 pictures"),
        ({"strength": 1.5}, r"got strength 1.5, expected 0\.\.1"),
    ],
)
def test_what_it_cannot_draw_is_named(given, message):
    request = {"tokens": tokens(2), "seeds": [1, 2], "init": None, "strength": 1.0} | given
    with pytest.raises(ValueError, match=message):
        generator()(**request)


def test_files_that_are_no_generator_are_named(tmp_path):
    path = tmp_path / "generator.safetensors"
    with pytest.raises(ValueError, match="is no generator's file"):
        codec_of(path)
    path.write_bytes(b"not safetensors")
    with pytest.raises(ValueError, match="is no generator's file"):
        codec_of(path)
    generator().save(path)
    with pytest.raises(ValueError, match="the codec given is pixels"):
        SmallGenerator.load(path, codec=PixelCodec(8))


def test_tokens_that_are_no_map_are_named():
    with pytest.raises(ValueError, match="got 4 tokens, expected one, or one and a square map"):
        PictureTransformer(CONFIG, (3, SIDE, SIDE), (4, 6))
    network = transformer(tokens=1)
    features = network.guess(torch.zeros(1, 1, 6))
    latents = torch.zeros(1, 3, SIDE, SIDE)
    assert network(latents, torch.tensor([3]), features).shape == latents.shape
    assert network.guess.mean_latents(features).shape == latents.shape
