"""The simulated brain against its stated truth, dense Gaussian algebra and NSD's formulas."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from mindeye_dist.evaluation.ridge import fit_ridge
from mindeye_dist.metrics import DIRECTIONS, ranks, similarity, top_k
from mindeye_dist.simulation.brain import (
    OptimalDecoder,
    SimulatedSubject,
    make_subject,
)
from mindeye_dist.simulation.config import SimulationConfig
from mindeye_dist.simulation.nsd import NSD_VOXELS, nsd_preset
from mindeye_dist.simulation.tuning import (
    GRID,
    ROI_VOXELS,
    SmoothField,
    fit_feature_space,
    make_sheet,
    receptive_fields,
)

NUM_TRAIN, NUM_TEST = 1500, 200
SMALL = SimulationConfig(num_voxels=300, num_components=10, lowrank_rank=3)


def pictures_with_tokens(count, seed=0):
    """Return tokens and pictures that vary smoothly and share some of what drives them."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(1).standard_normal((20, 80)) / 20**0.5
    latent = generator.standard_normal((count, 20))
    tokens = latent @ mixing + 0.1 * generator.standard_normal((count, 80)) + 1
    coarse = generator.uniform(0, 255, (count, 8, 8, 3)) + 10 * latent[:, :3][:, None, None, :]
    pictures = np.kron(np.clip(coarse, 0, 255), np.ones((1, 2, 2, 1)))
    pictures += generator.uniform(-20, 20, pictures.shape)
    pictures = np.clip(pictures, 0, 255).astype(np.uint8)
    return tokens.reshape(count, 5, 16).astype(np.float32), pictures


@pytest.fixture(scope="module")
def shown():
    return pictures_with_tokens(NUM_TRAIN + NUM_TEST)


@pytest.fixture(scope="module")
def space(shown):
    tokens, pictures = shown
    return fit_feature_space(
        tokens[:NUM_TRAIN], pictures[:NUM_TRAIN], num_semantic=10, num_lowlevel=32
    )


@pytest.fixture(scope="module")
def features(space, shown):
    return space(*shown)


@pytest.fixture(scope="module")
def six_repeats(space, features):
    subject = make_subject(replace(SMALL, num_repeats=6), space)
    return subject, subject.respond(range(len(features)), features)


def correlations(first, second):
    """Return each voxel's Pearson correlation over pictures."""
    first, second = (x.astype(float) - x.astype(float).mean(axis=0) for x in (first, second))
    norms = np.linalg.norm(first, axis=0) * np.linalg.norm(second, axis=0)
    return (first * second).sum(axis=0) / norms


def noise_covariance(subject):
    """Return the covariance of a single trial's noise as one dense matrix."""
    smooth = subject.smooth_loadings().astype(float)
    lowrank = subject.lowrank.astype(float)
    return np.diag(subject.independent_variance) + smooth @ smooth.T + lowrank @ lowrank.T


def test_noise_ceilings_match_nsds_formula(six_repeats):
    # Oracle: n-trial means correlate with NC(n) = ncsnr^2 / (ncsnr^2 + 1/n) (Allen et al. 2022).
    subject, responses = six_repeats
    voxels = responses.voxels.astype(np.float32)
    for n in (1, 3):
        ceiling = 100 * subject.ncsnr**2 / (subject.ncsnr**2 + 1 / n)
        halves = voxels[:, :n].mean(axis=1), voxels[:, n : 2 * n].mean(axis=1)
        assert abs(100 * correlations(*halves).mean() - ceiling.mean()) < 1


def test_ncsnr_is_recovered(six_repeats):
    # Oracle: the planted ncsnr.
    subject, responses = six_repeats
    # As NSD estimates it: noise is the variance across repeats, the signal the rest of 1.
    noise = responses.voxels[:, :3].astype(np.float32).var(axis=1, ddof=1).mean(axis=0)
    estimate = np.sqrt(np.maximum(0, 1 - noise) / noise)
    assert np.corrcoef(estimate, subject.ncsnr)[0, 1] > 0.98
    assert abs((estimate - subject.ncsnr).mean()) < 0.02


def test_covariances_are_the_stated_ones(six_repeats, space):
    # Oracle: within pictures the noise's covariance, across repeats the signal's.
    subject, responses = six_repeats
    voxels = responses.voxels.astype(np.float32)
    residual = (voxels - voxels.mean(axis=1, keepdims=True)).reshape(-1, voxels.shape[-1])
    within = residual.T @ residual / (len(voxels) * 5)
    assert np.abs(within - noise_covariance(subject)).max() < 0.06
    assert np.abs(within - noise_covariance(subject)).mean() < 0.01
    halves = voxels[:, :3].mean(axis=1), voxels[:, 3:].mean(axis=1)
    across = halves[0].T @ halves[1] / len(voxels)
    weights, other = subject.weights, subject.unexplained
    signal = weights @ space.covariance @ weights.T + other @ other.T
    assert np.abs(across - signal).mean() < 0.015
    np.testing.assert_allclose(
        np.diag(signal), subject.ncsnr**2 / (1 + subject.ncsnr**2), rtol=1e-3
    )


@pytest.mark.parametrize("num_repeats", [1, 3])
def test_optimal_decoder_is_the_dense_posterior(space, features, num_repeats):
    # Oracle: C W' (W C W' + N)^-1 v with every matrix written out, and scipy's normal densities.
    subject = make_subject(replace(SMALL, num_voxels=40), space)
    voxels = subject.respond(range(30), features[:30]).voxels.astype(np.float32)
    voxels = voxels[:, :num_repeats].mean(axis=1)
    weights, prior = subject.weights.astype(float), space.covariance.astype(float)
    other = subject.unexplained.astype(float)
    noise = other @ other.T + noise_covariance(subject) / num_repeats
    marginal = weights @ prior @ weights.T + noise
    posterior = voxels @ np.linalg.solve(marginal, weights @ prior)
    decoder = OptimalDecoder(subject, num_repeats)
    np.testing.assert_allclose(decoder.features(voxels), posterior, atol=2e-4)
    slopes = np.linalg.solve(prior, space.token_covariance)
    tokens = space.token_mean + posterior @ slopes
    np.testing.assert_allclose(decoder.clip_tokens(voxels), tokens, atol=5e-4)

    seen = features[:50]
    likely = np.array([multivariate_normal.logpdf(voxels, f @ weights.T, noise) for f in seen])
    common = multivariate_normal.logpdf(voxels, np.zeros(40), marginal)
    np.testing.assert_allclose(
        decoder.similarity(voxels, seen), likely.T - common[:, None], atol=2e-3
    )


def test_no_fitted_linear_decoder_beats_the_ideal_observer(space, features, shown):
    # Oracle: the data processing inequality, here for ridge regression on 1,300 pictures.
    subject = make_subject(SMALL, space)
    voxels = subject.respond(range(len(features)), features).voxels.astype(np.float32)
    voxels, tokens = voxels.mean(axis=1), shown[0].reshape(len(features), -1)
    test, val = slice(NUM_TRAIN, None), slice(1300, NUM_TRAIN)
    ridge = fit_ridge(voxels[:1300], tokens[:1300], voxels[val], tokens[val], [10.0, 100.0, 1000.0])
    decoder = OptimalDecoder(subject, 3)
    observer = decoder.similarity(voxels[test], features[test])
    fitted = [
        similarity(prediction, tokens[test], centred=centred)
        for prediction in (ridge.predict(voxels[test]), decoder.clip_tokens(voxels[test]))
        for centred in (False, True)
    ]
    shuffled = decoder.similarity(np.roll(voxels[test], 1, axis=0), features[test])
    for direction in DIRECTIONS:
        best = top_k(ranks(observer, direction), 1)
        assert best > 10 / NUM_TEST
        for matrix in fitted:
            assert top_k(ranks(matrix, direction), 1) < best
        # Chance is 1 / 200; brains that saw other pictures find theirs no more often than that.
        assert top_k(ranks(shuffled, direction), 1) < 0.03


def test_a_response_does_not_depend_on_the_other_pictures(space, features):
    # Oracle: the same call with more pictures, but for z-scoring, an affine map of a voxel.
    subject = make_subject(replace(SMALL, trials_per_session=10**6), space)
    chosen = [7, 3, 60, 21, 44, 80, 35, 11]
    many = subject.respond(range(100), features[:100]).voxels[chosen]
    few = subject.respond(chosen, features[chosen]).voxels
    assert correlations(many.reshape(24, -1), few.reshape(24, -1)).min() > 0.99999


def test_sessions_are_z_scored_and_trials_are_dealt_once(space, features):
    subject = make_subject(replace(SMALL, trials_per_session=100), space)
    responses = subject.respond(range(120), features[:120])
    trials = responses.trials
    assert sorted(trials.ravel()) == list(range(360))
    assert (np.diff(trials, axis=1) > 0).all()
    for session in range(4):
        inside = responses.voxels[trials // 90 == session].astype(np.float32)
        assert np.abs(inside.mean(axis=0)).max() < 1e-3
        assert np.abs(inside.std(axis=0) - 1).max() < 1e-3
    again = make_subject(subject.config, space).respond(range(120), features[:120])
    np.testing.assert_array_equal(again.voxels, responses.voxels)


def test_subjects_share_features_but_not_voxels(space, features):
    first, second = (make_subject(replace(SMALL, subject=name), space) for name in ("a", "b"))
    assert abs(np.corrcoef(first.ncsnr, second.ncsnr)[0, 1]) < 0.2
    assert abs(np.corrcoef(first.weights.ravel(), second.weights.ravel())[0, 1]) < 0.1
    responses = [s.respond(range(300), features[:300]).voxels[:, 0] for s in (first, second)]
    assert np.abs(correlations(*responses)).mean() < 0.1


def test_nsds_first_subject_has_its_rois_and_its_visual_field():
    # Oracle: the published counts; a left hemisphere sees the right half field.
    config = nsd_preset("subj01")
    sheet = make_sheet(config.num_voxels, config.early_fraction)
    counts = np.bincount(sheet.roi, minlength=len(ROI_VOXELS))
    assert counts.sum() == NSD_VOXELS["subj01"]
    assert np.abs(counts - ROI_VOXELS).max() <= 6
    left = sheet.early & (sheet.hemisphere == 0)
    fields = receptive_fields(sheet)[left].reshape(-1, GRID, GRID)
    assert fields[:, :, GRID // 2 :].sum() > 2 * fields[:, :, : GRID // 2].sum()


def test_smooth_noise_has_the_set_width():
    # Oracle: white noise smoothed with a Gaussian of this width correlates as one sqrt(2) wider.
    sheet = make_sheet(800, 0.3)
    loadings = SmoothField(sheet, 4.0).matrix()
    np.testing.assert_allclose((loadings**2).sum(axis=1), 1, rtol=1e-5)
    left = np.arange(400).reshape(20, 20)
    sigma = 4.0 / 2.3548
    expected = np.exp(-(2**2) / (4 * sigma**2))
    shifted = loadings[left[:, 5:13]] * loadings[left[:, 7:15]]
    assert abs(shifted.sum(axis=-1).mean() - expected) < 0.03
    sampled = SmoothField(sheet, 4.0).sample(np.eye(loadings.shape[1], dtype=np.float32))
    np.testing.assert_allclose(sampled.T, loadings, atol=1e-6)


def test_truth_survives_saving(space, features, tmp_path):
    subject = make_subject(SMALL, space)
    subject.save(tmp_path / "truth.safetensors")
    loaded = SimulatedSubject.load(tmp_path / "truth.safetensors")
    assert loaded.config == subject.config
    ids = range(20)
    np.testing.assert_array_equal(
        loaded.respond(ids, features[:20]).voxels, subject.respond(ids, features[:20]).voxels
    )
    np.testing.assert_array_equal(loaded.clean(features), features @ subject.weights.T)
    for name, voxels in subject.rois.items():
        np.testing.assert_array_equal(loaded.rois[name], voxels)


def test_mistakes_are_named(space, features, shown):
    tokens, pictures = shown
    subject = make_subject(SMALL, space)
    with pytest.raises(ValueError, match=r"subj01: features have shape .*, expected"):
        subject.respond([1, 2, 3], features[:2])
    with pytest.raises(ValueError, match="not finite"):
        subject.respond([1], np.full_like(features[:1], np.nan))
    with pytest.raises(ValueError, match="more than once"):
        subject.respond([1, 1], features[:2])
    with pytest.raises(ValueError, match="subj01: voxels have shape"):
        OptimalDecoder(subject, 3).features(np.zeros((2, 7), np.float32))
    with pytest.raises(ValueError, match="expected at least 84"):
        fit_feature_space(tokens[:50], pictures[:50], num_semantic=10, num_lowlevel=32)
    # With checked types, as in this test run, jaxtyping notices it first.
    with pytest.raises((ValueError, TypeError)):
        space(tokens[:50], pictures[:40])
    with pytest.raises(ValueError, match="48 values a picture, expected 80"):
        space(tokens[:9, :3], pictures[:9])
    with pytest.raises(ValueError, match="expected one of subj01"):
        nsd_preset("subj09")
    with pytest.raises(ValueError, match=r"simulation.unexplained_fraction: got 1.5"):
        SimulationConfig(unexplained_fraction=1.5)
