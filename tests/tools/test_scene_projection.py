"""The projection of rendered scenes: discriminants of known factors."""

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LinearRegression

from mindeye_dist.frozen.projection import project
from mindeye_dist.simulation.scenes import PLACES
from tools.scene_projection import NAMES, PRESENCE, fit_scene_projection, presence, scene_labels

CONTRASTS, CHANNELS, SIDE = 54, 90, 3


def random_factors(count, seed=0):
    draw = np.random.default_rng(seed)
    tables = {**NAMES, "place": list(PLACES)}
    return [
        {name: names[draw.integers(len(names))] for name, names in tables.items()}
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def scenes():
    """Return factors, and channels that are a linear picture of the labels with some noise."""
    factors = random_factors(3000)
    draw = torch.Generator().manual_seed(0)
    there = presence(factors, SIDE)[..., None]
    tokens = there * torch.randn(CHANNELS, generator=draw)
    summary_mixing = torch.randn(scene_labels(factors).shape[1], CHANNELS, generator=draw)
    summary = scene_labels(factors) @ summary_mixing
    tokens = torch.cat([summary[:, None], tokens], dim=1)
    return factors, tokens + 0.3 * torch.randn(tokens.shape, generator=draw)


def batches(scenes, size=100):
    factors, tokens = scenes
    starts = range(0, len(factors), size)
    return [(tokens[start : start + size], factors[start : start + size]) for start in starts]


def test_discriminants_have_mean_0_and_variance_1_and_presence_its_share(scenes):
    """Oracle: NumPy's covariance."""
    projection = fit_scene_projection(batches(scenes))
    raw = scenes[1].numpy()
    summary = (raw[:, 0] - projection.summary_mean.numpy()) @ projection.summary_basis.numpy()
    places = raw[:, 1:].reshape(-1, CHANNELS)
    others = (places - projection.map_mean.numpy()) @ projection.map_basis.numpy()
    assert summary.shape[1] == others.shape[1] == CONTRASTS + 1
    assert not summary[:, CONTRASTS:].any()
    assert not others[:, :CONTRASTS].any()
    np.testing.assert_allclose(summary.mean(0), 0, atol=1e-3)
    covariance = np.cov(summary[:, :CONTRASTS].T, bias=True)
    np.testing.assert_allclose(covariance, np.eye(CONTRASTS), atol=1e-3)
    np.testing.assert_allclose(others[:, CONTRASTS].mean(), 0, atol=1e-3)
    np.testing.assert_allclose(others[:, CONTRASTS].var(), PRESENCE * CONTRASTS, rtol=1e-3)


def test_kinds_are_read_off_as_well_as_by_scikit_learn(scenes):
    """Oracle: LinearDiscriminantAnalysis on the raw channels; unseen scenes."""
    factors, tokens = scenes
    projection = fit_scene_projection(batches((factors[:2000], tokens[:2000])))
    kinds = np.array([f["kind"] for f in factors])
    raw, reduced = tokens[:, 0].numpy(), project(tokens, projection)[:, 0].numpy()
    right = {}
    for name, values in (("raw", raw), ("reduced", reduced)):
        reader = LinearDiscriminantAnalysis().fit(values[:2000], kinds[:2000])
        right[name] = reader.score(values[2000:], kinds[2000:])
    assert right["raw"] > 0.9
    assert right["reduced"] > right["raw"] - 0.03


@pytest.mark.parametrize(
    ("place", "where"), [("upper right", (1, 5)), ("lower left", (5, 1)), ("top", (1, 3))]
)
def test_presence_is_where_the_object_is(place, where):
    """Oracle: by hand. 0.28 of the picture is 0.25 of the middle that the encoder sees."""
    factors = random_factors(1)[0] | {"place": place, "size": "small"}
    there = presence([factors], 7)[0].reshape(7, 7)
    assert divmod(int(there.argmax()), 7) == where
    assert there[where] > 0.9
    assert there[6 - where[0], 6 - where[1]] < 0.1


def test_the_map_tells_where_the_object_is(scenes):
    """Oracle: scikit-learn's linear regression on the raw channels; unseen scenes."""
    factors, tokens = scenes
    projection = fit_scene_projection(batches((factors[:2000], tokens[:2000])))
    truth = presence(factors, SIDE)
    reduced = project(tokens, projection)[2000:, 1:, CONTRASTS]
    raw = LinearRegression().fit(tokens[:2000, 1:].flatten(0, 1), truth[:2000].flatten())
    told = raw.predict(tokens[2000:, 1:].flatten(0, 1).numpy()).reshape(1000, -1)
    where = truth[2000:].argmax(dim=1).numpy()
    right = (told.argmax(axis=1) == where).mean()
    assert right > 0.9
    assert (reduced.argmax(dim=1).numpy() == where).mean() > right - 0.01


def test_the_picture_s_batches_do_not_matter(scenes):
    """Oracle: all scenes at once."""
    one, many = (fit_scene_projection(batches(scenes, size)) for size in (3000, 7))
    for name, values in vars(one).items():
        torch.testing.assert_close(vars(many)[name], values, rtol=1e-3, atol=1e-4)


def test_too_few_scenes_and_lacking_factors_are_refused(scenes):
    factors, tokens = scenes
    with pytest.raises(ValueError, match="54 discriminants asked of 20 vectors"):
        fit_scene_projection(batches((factors[:20], tokens[:20])))
    same = [factors[0]] * 100
    with pytest.raises(ValueError, match="expected more scenes"):
        fit_scene_projection(batches((same, tokens[:100])))
    with pytest.raises(ValueError, match="54 discriminants asked of 40 channels"):
        fit_scene_projection(batches((factors, tokens[..., :40])))
    with pytest.raises(ValueError, match="got 9 tokens, expected one and a square map"):
        fit_scene_projection(batches((factors, tokens[:, :9])))
    lacking = [{k: v for k, v in f.items() if k != "size"} for f in factors[:100]]
    with pytest.raises(ValueError, match="scene 0: its truth .* lacks size"):
        fit_scene_projection(batches((lacking, tokens[:100])))
