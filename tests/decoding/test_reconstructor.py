"""Reconstructor: independent of the batch; the projector chooses; parts must fit each other."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from jobs.worker import worker
from mindeye_dist.data.target_encoder import TargetEncoder
from mindeye_dist.decoding.config import ReconstructionConfig
from mindeye_dist.decoding.predictor import Predictor
from mindeye_dist.decoding.reconstructor import LowLevelPipeline, Reconstructor
from mindeye_dist.errors import DataError
from mindeye_dist.randomness import seed_for
from mindeye_dist.runs.checkpoints import Checkpoints
from mindeye_dist.strict import override
from tests.conftest import tiny_run
from tests.evaluation.test_lowlevel import TinyCodec
from tests.jobs.test_embed import Colours
from tests.tiny_generator import TinyGenerator

ENCODER = TargetEncoder(
    kind="clip_tokens", name="tiny", digest="0" * 64, shape=(5, 16), encode=Colours()
)
CONFIG = ReconstructionConfig(candidates=5, batch_size=64)
KEYS = [f"sample{i}" for i in range(7)]


@pytest.fixture(scope="module")
def voxels():
    return np.random.default_rng(0).standard_normal((7, 24)).astype(np.float32)


@pytest.fixture(scope="module")
def checkpoints(tiny_shards, tmp_path_factory):
    """Return the checkpoints of a high-level and a low-level run on the tiny subject."""
    folder, paths = tmp_path_factory.mktemp("runs"), {}
    for pipeline in ("highlevel", "lowlevel"):
        changes = {"training.epochs": 1, "pipeline": pipeline}
        config = override(tiny_run(tiny_shards, folder / pipeline), changes)
        worker(config)
        paths[pipeline] = Checkpoints(config.run_dir, 1).newest()
    return paths


def reconstructor(checkpoints, config=CONFIG, lowlevel=True, generator=None, encoder=ENCODER):
    """Return a Reconstructor of tiny parts."""
    low = LowLevelPipeline(Predictor(checkpoints["lowlevel"]), TinyCodec()) if lowlevel else None
    predictor = Predictor(checkpoints["highlevel"], batch_size=config.batch_size)
    return Reconstructor(predictor, generator or TinyGenerator(), encoder, config, low)


def psnr(a, b):
    """Return the peak signal-to-noise ratio of pictures in eight bits (dB)."""
    error = np.square(a.astype(np.float64) - b.astype(np.float64)).mean()
    return np.inf if error == 0 else 10 * np.log10(255**2 / error)


@pytest.mark.parametrize("batch_size", [1, 16])
@pytest.mark.parametrize("lowlevel", [True, False])
def test_nothing_depends_on_the_batch(checkpoints, voxels, batch_size, lowlevel):
    """Oracle: all 35 candidates at once."""
    whole = reconstructor(checkpoints, lowlevel=lowlevel)(voxels, KEYS)
    generator = TinyGenerator()
    config = replace(CONFIG, batch_size=batch_size)
    parts = reconstructor(checkpoints, config, lowlevel, generator)(voxels, KEYS)
    assert max(generator.calls) == batch_size, "memory is bounded"
    assert sum(generator.calls) == 7 * 5
    assert psnr(whole.candidates, parts.candidates) >= 60
    np.testing.assert_allclose(parts.scores, whole.scores, atol=1e-4)
    np.testing.assert_array_equal(parts.chosen, whole.chosen)
    assert (whole.lowlevel is None) is not lowlevel


def test_the_choice_is_the_projectors(checkpoints, voxels):
    """Oracle: a loop over single candidates, with their cosines by NumPy."""
    own = reconstructor(checkpoints)
    made = own(voxels, KEYS)
    assert len({int(n) for n in made.chosen}) > 1
    for brain in range(7):
        wanted = own.predictor.embed(voxels[brain : brain + 1])[0].astype(np.float64)
        best, best_score = -1, -np.inf
        for number, candidate in enumerate(made.candidates[brain]):
            image = torch.from_numpy(candidate.transpose(2, 0, 1)[None] / np.float32(255))
            tokens = ENCODER.encode(image).numpy().ravel().astype(np.float64)
            score = tokens @ wanted / np.linalg.norm(tokens) / np.linalg.norm(wanted)
            assert abs(score - made.scores[brain, number]) < 1e-5
            if score > best_score:
                best, best_score = number, score
        assert made.chosen[brain] == best
        np.testing.assert_array_equal(made.pictures[brain], made.candidates[brain, best])


def test_a_candidate_is_the_generators(checkpoints, voxels):
    """Oracle: predictor, codec and generator by hand, for one brain's third candidate."""
    own = reconstructor(checkpoints)
    made = own(voxels, KEYS)
    brain, number = voxels[4:5], 2
    tokens = own.predictor.tokens(brain, [seed_for(42, "prior", "sample4", number)])
    latents = torch.from_numpy(own.lowlevel.predictor.latents(brain))
    blurry = TinyCodec().decode(latents)
    seed = seed_for(42, "generator", "sample4", number)
    drawn = TinyGenerator()(torch.from_numpy(tokens), [seed], blurry, 0.85)[0]
    expected = (drawn.permute(1, 2, 0).numpy() * 255).round()
    assert np.abs(made.candidates[4, number] - expected).max() <= 1
    assert np.abs(made.lowlevel[4] / 255.0 - blurry[0].permute(1, 2, 0).numpy()).max() < 3e-3


def test_seeds_depend_on_keys_not_on_positions(checkpoints, voxels):
    own = reconstructor(checkpoints)
    whole = own(voxels, KEYS)
    turned = own(voxels[::-1].copy(), KEYS[::-1])
    assert psnr(turned.candidates[::-1], whole.candidates) >= 60
    other = own(voxels[:1], ["another"])
    assert psnr(other.candidates[0], whole.candidates[0]) < 40
    again = reconstructor(checkpoints, replace(CONFIG, seed=43))(voxels[:1], KEYS[:1])
    assert psnr(again.candidates[0], whole.candidates[0]) < 40
    one, two = whole.candidates[0, :2]
    assert psnr(one, two) < 40, "candidates differ"


def test_fewer_candidates_are_the_first_ones(checkpoints, voxels):
    many = reconstructor(checkpoints)(voxels, KEYS)
    few = reconstructor(checkpoints, replace(CONFIG, candidates=2))(voxels, KEYS)
    assert psnr(few.candidates, many.candidates[:, :2]) >= 60


def test_given_tokens_are_drawn_and_chosen_by(checkpoints):
    """Oracle: the generator on the same tokens, and the cosine with them by NumPy."""
    own = reconstructor(checkpoints, lowlevel=False)
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    tokens = ENCODER.encode(images).numpy()
    made = own.from_tokens(tokens, KEYS[:3])
    assert made.lowlevel is None
    seeds = [seed_for(42, "generator", KEYS[1], n) for n in range(5)]
    drawn = TinyGenerator()(torch.from_numpy(tokens[1]).expand(5, -1, -1), seeds)
    assert psnr(made.candidates[1], drawn.permute(0, 2, 3, 1).numpy() * 255) >= 48
    images_of = torch.from_numpy(made.candidates[1]).permute(0, 3, 1, 2).float() / 255
    found, wanted = ENCODER.encode(images_of).flatten(1).numpy(), tokens[1].ravel()
    cosines = [f @ wanted / np.linalg.norm(f) / np.linalg.norm(wanted) for f in found]
    np.testing.assert_allclose(made.scores[1], cosines, atol=1e-5)

    over = own.from_tokens(tokens, KEYS[:3], images)
    assert over.lowlevel.shape == (3, 16, 16, 3)
    assert psnr(over.candidates, made.candidates) < 40


def test_strength_nothing_is_the_blurry_picture(checkpoints, voxels):
    made = reconstructor(checkpoints, replace(CONFIG, strength=0.0))(voxels, KEYS)
    assert psnr(made.pictures, made.lowlevel) >= 60
    blurry = reconstructor(checkpoints).lowlevel_pictures(voxels)
    assert blurry.shape == (7, 3, 16, 16)
    assert psnr(made.lowlevel, blurry.permute(0, 2, 3, 1).numpy() * 255) >= 48


def test_invalid_voxels_and_tokens_are_refused(checkpoints, voxels):
    own = reconstructor(checkpoints, lowlevel=False)
    tokens = np.zeros((2, 5, 16), np.float32)
    with pytest.raises(ValueError, match="keys: got 6, expected one for each of 7 brains"):
        own(voxels, KEYS[:6])
    with pytest.raises(ValueError, match="voxels: got no brains"):
        own(voxels[:0], [])
    with pytest.raises(ValueError, match="keys: got 1, expected one for each of 2 brains"):
        own.from_tokens(tokens, KEYS[:1])
    with pytest.raises(ValueError, match=r"tokens: got \(0, 5, 16\), expected \(brains, 5, 16\)"):
        own.from_tokens(tokens[:0], [])
    with pytest.raises(ValueError, match=r"tokens: got \(2, 4, 16\), expected \(brains, 5, 16\)"):
        own.from_tokens(tokens[:, :4], KEYS[:2])
    tokens[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match="tokens: values that are not finite for sample1"):
        own.from_tokens(tokens, KEYS[:2])
    with pytest.raises(ValueError, match="low-level pictures: got 1, expected one for each of 2"):
        own.from_tokens(np.ones((2, 5, 16), np.float32), KEYS[:2], torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match="got no low-level pipeline"):
        own.lowlevel_pictures(voxels)


def test_pictures_that_are_not_finite_are_refused(checkpoints, voxels):
    class Broken(TinyGenerator):
        def __call__(self, tokens, *_):
            return torch.full((len(tokens), 3, 16, 16), float("nan"))

    own = reconstructor(checkpoints, lowlevel=False, generator=Broken())
    with pytest.raises(ValueError, match="picture by tiny-generator: .* not finite for sample0"):
        own(voxels, KEYS)


def test_parts_that_do_not_fit_are_refused(checkpoints, tmp_path, write_subject):
    generator = TinyGenerator()
    generator.token_shape = (257, 768)
    with pytest.raises(DataError, match=r"takes tokens \(257, 768\), .* gives \(5, 16\)"):
        reconstructor(checkpoints, generator=generator)
    generator = TinyGenerator()
    generator.encoder_digest = "ab" * 32
    with pytest.raises(DataError, match=r"of encoder abababababab, .* by those of tiny 00000000"):
        reconstructor(checkpoints, generator=generator)
    with pytest.raises(DataError, match=r"tiny cdcdcdcdcdcd is to encode .* tokens of tiny 00000"):
        reconstructor(checkpoints, encoder=replace(ENCODER, digest="cd" * 32))
    swapped = {"highlevel": checkpoints["lowlevel"], "lowlevel": checkpoints["highlevel"]}
    with pytest.raises(DataError, match="is of the lowlevel pipeline, expected the highlevel"):
        reconstructor(swapped)
    with pytest.raises(DataError, match="is of the highlevel pipeline, expected the lowlevel"):
        reconstructor(checkpoints | {"lowlevel": checkpoints["highlevel"]})
    write_subject(tmp_path / "shards", num_voxels=25)
    changes = {"training.epochs": 1, "pipeline": "lowlevel"}
    config = override(tiny_run(tmp_path / "shards", tmp_path / "run"), changes)
    worker(config)
    other = checkpoints | {"lowlevel": Checkpoints(config.run_dir, 1).newest()}
    with pytest.raises(DataError, match="of subj01 with 25 voxels, .* of subj01 with 24 voxels"):
        reconstructor(other)


def test_candidates_may_be_drawn_from_the_mean_of_samples(checkpoints, voxels):
    """Oracle: the mean of the predictor's samples, brain by brain; the noise still differs."""
    asked = []

    class Recorder(TinyGenerator):
        def __call__(self, tokens, given, init=None, strength=1.0):
            asked.extend(zip(tokens, given, strict=True))
            return super().__call__(tokens, given, init, strength)

    config = replace(CONFIG, candidates=2, averaged_samples=3)
    made = reconstructor(checkpoints, config, generator=Recorder())
    made(voxels, KEYS)
    assert len({seed for _, seed in asked}) == 14
    for brain, key in enumerate(KEYS):
        samples = [
            made.predictor.tokens(voxels[[brain]], [seed_for(config.seed, "prior", key, number)])
            for number in range(3)
        ]
        for tokens, _ in asked[2 * brain : 2 * brain + 2]:
            np.testing.assert_allclose(tokens, np.mean(samples, axis=0)[0], rtol=1e-4, atol=1e-5)


def test_shared_noise_is_the_same_for_every_picture(checkpoints, voxels):
    """As published: the generator's seeds do not depend on the picture, the prior's do."""
    seeds = []

    class Recorder(TinyGenerator):
        def __call__(self, tokens, given, init=None, strength=1.0):
            seeds.extend(given)
            return super().__call__(tokens, given, init, strength)

    for shared in (True, False):
        config = replace(CONFIG, candidates=2, shared_noise=shared)
        reconstructor(checkpoints, config, generator=Recorder())(voxels, KEYS)
    assert len(set(seeds[:14])) == 2
    assert len(set(seeds[14:])) == 14
