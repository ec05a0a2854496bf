"""Evaluation of pictures: each row against an independent loop, on tiny parts."""

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from mindeye_dist.decoding.predictor import Predictor
from mindeye_dist.evaluation import controls
from mindeye_dist.evaluation.controls import (
    BrainSelection,
    collect_pictures,
    derangement,
    picture_rows,
    reconstruct_brains,
)
from mindeye_dist.evaluation.pictures import Judges, PictureSettings, evaluate_pictures
from mindeye_dist.evaluation.retrieval import evaluate_retrieval
from mindeye_dist.frozen.metric_networks import FeatureNetwork
from mindeye_dist.pictures import as_unit, decode, sized
from mindeye_dist.reports.page import write_report
from tests.decoding.test_reconstructor import CONFIG, checkpoints, psnr, reconstructor  # noqa: F401
from tests.evaluation.test_lowlevel import data_of
from tests.tiny_generator import TinyGenerator

SETTINGS = PictureSettings(pictures=6, control_candidates=2)


def means(images):
    """Stand in for a network: return the mean colours of a 4 x 4 grid."""
    return torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)


NETWORK = FeatureNetwork(key="lite0_two_way", label="tiny", score="two_way", features=means)
JUDGES = Judges(networks=[NETWORK], gaps={}, encoder=None, factors={}, captions={})


@pytest.fixture(scope="module")
def parts(checkpoints, tiny_shards):  # noqa: F811
    """Return a reconstructor and the data that it is evaluated on."""
    data = data_of(Predictor(checkpoints["highlevel"]), tiny_shards)
    return reconstructor(checkpoints), data


@pytest.fixture(scope="module")
def rows(parts):
    own, data = parts
    brains = BrainSelection(
        train=data.splits["train"], test=data.splits["test"], numbers=[0, 2, 3, 7, 8]
    )
    model = own(brains.averages(), brains.keys)
    return own, brains, model, picture_rows(own, brains, collect_pictures([model], 2), 2, seed=0)


def test_rows_in_reading_order(rows):
    assert list(rows[-1]) == [
        "model",
        "true_tokens",
        "fewer",
        "other_seed",
        "no_choice",
        "no_lowlevel",
        "lowlevel_only",
        "single_trial",
        "best_training_picture",
        "mean_brain",
        "shuffled",
    ]
    assert {row.pictures.shape for row in rows[-1].values()} == {(5, 16, 16, 3)}


def test_fewer_candidates_are_the_models_own(rows):
    """Oracle: a loop over the model's candidates and scores."""
    _, _, model, made = rows
    for brain in range(5):
        best = 0 if model.scores[brain, 0] >= model.scores[brain, 1] else 1
        np.testing.assert_array_equal(made["fewer"].pictures[brain], model.candidates[brain, best])
    np.testing.assert_array_equal(made["no_choice"].pictures, model.candidates[:, 0])


@pytest.mark.parametrize("averaged", [0, 3])
def test_other_seeds_are_others_for_the_prior_too(rows, averaged):
    """Oracle: the reconstructor of seed 43, also where candidates share a mean of samples.

    The generator ignores its seeds, so only the prior's can make a difference.
    """

    class Seedless(TinyGenerator):
        def __call__(self, tokens, seeds, init=None, strength=1.0):
            return super().__call__(tokens, [0] * len(seeds), init, strength)

    own, brains = rows[:2]
    config = replace(CONFIG, candidates=2, averaged_samples=averaged)
    parts = (own.predictor, Seedless(), own.encoder)
    usual = type(own)(*parts, config, own.lowlevel)
    model = usual(brains.averages(), brains.keys)
    made = picture_rows(usual, brains, collect_pictures([model], 2), 2, seed=0)[
        "other_seed"
    ].pictures
    other = type(own)(*parts, replace(config, seed=43), own.lowlevel)
    np.testing.assert_array_equal(made, other(brains.averages(), brains.keys).pictures)
    assert psnr(made, model.pictures) < 60


def test_the_best_training_picture_is_the_nearest_of_all(rows):
    """Oracle: every training target by itself."""
    own, brains, _, made = rows
    wanted = own.predictor.embed(brains.averages()).astype(np.float64)
    targets = brains.train.all_targets("clip_tokens").reshape(len(brains.train), -1)
    for brain in range(5):
        cosines = [wanted[brain] @ t / np.linalg.norm(t) for t in targets.astype(np.float64)]
        file = brains.train.pictures([int(np.argmax(cosines))])[0]
        expected = sized(as_unit(decode(file, "")[None]), 16)[0]
        got = as_unit(made["best_training_picture"].pictures[brain])
        np.testing.assert_allclose(got, expected, atol=1 / 255)


def test_no_more_candidates_are_held_than_of_some_brains(rows, monkeypatch):
    """Oracle: all brains at once; only the last part is still in memory at full size."""
    own, brains, model, _ = rows
    monkeypatch.setattr(controls, "BRAINS_AT_ONCE", 2)
    held = []

    def watched():
        for part in reconstruct_brains(own, brains):
            assert all(array() is None for array in held[:-1])
            held.append(weakref.ref(part.candidates))
            yield part
            del part

    found, expected = collect_pictures(watched(), 2), collect_pictures([model], 2)
    assert len(held) == 3
    assert found.keys == expected.keys
    for name in ("pictures", "fewer", "first", "page_candidates", "lowlevel"):
        assert psnr(getattr(found, name), getattr(expected, name)) >= 60
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    upper = picture_rows(own, brains, found, 2, seed=0)["true_tokens"].pictures
    assert psnr(upper, rows[3]["true_tokens"].pictures) >= 60


def test_controls_change_one_thing(rows):
    own, brains, model, made = rows
    few = replace(CONFIG, candidates=2)
    control = type(own)(own.predictor, own.generator, own.encoder, few, own.lowlevel)
    first = np.stack([r[0] for r in brains.test.voxels(brains.numbers)]).astype(np.float32)
    np.testing.assert_array_equal(
        made["single_trial"].pictures, control(first, brains.keys).pictures
    )
    without = type(own)(own.predictor, own.generator, own.encoder, few)
    np.testing.assert_array_equal(
        made["no_lowlevel"].pictures, without(brains.averages(), brains.keys).pictures
    )
    mean = brains.train.averages().mean(axis=0, keepdims=True)
    average = control(mean, ["mean brain"]).pictures[0]
    for picture in made["mean_brain"].pictures:
        np.testing.assert_array_equal(picture, average)
    # The upper bound has as many candidates as the model, over the same low-level pictures.
    tokens = brains.test.all_targets("clip_tokens")[brains.numbers]
    lowlevel = torch.from_numpy(as_unit(model.lowlevel))
    np.testing.assert_array_equal(
        made["true_tokens"].pictures, own.from_tokens(tokens, brains.keys, lowlevel).pictures
    )
    np.testing.assert_array_equal(made["lowlevel_only"].pictures, model.lowlevel)


@pytest.mark.parametrize("count", [2, 3, 50])
def test_shuffled_brains_leave_nobody_in_place(count):
    order = derangement(count, 0)
    assert sorted(order) == list(range(count))
    assert all(order != np.arange(count))


def test_one_picture_cannot_be_shuffled():
    with pytest.raises(ValueError, match="got 1 picture, expected at least 2"):
        derangement(1, 0)


def test_the_page_has_every_row_and_names_every_gap(parts, tmp_path):
    own, data = parts
    made = evaluate_pictures(own, data, JUDGES, SETTINGS)
    assert len(made.examples) == made.report["pool"] == 6
    assert made.report["of"] == 9
    scores = made.report["rows"]["model"]["scores"]
    assert list(scores) == ["pixcorr", "ssim", "lite0_two_way"]
    assert made.report["metrics"]["alexnet2"]["gap"].startswith("weights not given")
    sort_scores = [example.score for example in made.examples]
    assert np.mean(sort_scores) == pytest.approx(scores["lite0_two_way"]["mean"])
    evaluation = replace(evaluate_retrieval(own.predictor, data), reconstructions=made)
    page = write_report(tmp_path, evaluation, [], {}).read_text()
    for row in made.report["rows"].values():
        assert row["label"] in page
    assert "weights not given" in page


def test_without_a_network_pictures_are_sorted_by_the_projector(parts):
    own, data = parts
    made = evaluate_pictures(own, data, replace(JUDGES, networks=[]), SETTINGS)
    assert made.report["sorted_by"] == "similarity to the projector's output"
    assert [e.score for e in made.examples] == [float(e.scores.max()) for e in made.examples]


def test_errors_of_the_judges_come_before_generation(checkpoints, parts):  # noqa: F811
    """Oracle: the generator's own count of its calls."""
    generator = TinyGenerator()
    own = reconstructor(checkpoints, generator=generator)
    broken = replace(NETWORK, features=lambda images: means(images) * torch.nan)
    with pytest.raises(ValueError, match="tiny: features of seen pictures .* are not finite"):
        evaluate_pictures(own, parts[1], replace(JUDGES, networks=[broken]), SETTINGS)
    assert generator.calls == []
