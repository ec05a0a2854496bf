"""The 1x768 model's prior against a transcription of its definition, one head and query a time."""

import math

import pytest
import torch

from mindeye_dist.model_config import ModelConfig, PriorConfig
from mindeye_dist.models.mindeye import MindEye
from mindeye_dist.models.query_prior import QueryPrior

CONFIG = PriorConfig(
    form="query",
    padding_tokens=7,
    depth=2,
    heads=3,
    head_dim=8,
    feedforward_factor=2,
    timesteps=10,
)
DIM = 24


@pytest.fixture
def prior():
    torch.manual_seed(0)
    prior = QueryPrior(CONFIG, DIM).eval()
    for parameter in prior.parameters():  # gains of one would hide a norm that is missing
        torch.nn.init.normal_(parameter, mean=0.5 if parameter.dim() == 1 else 0.0, std=0.3)
    return prior


def norm(x, gain):
    return (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt() * gain


def turned(x, position):
    """Rotate pairs of channels by the angle of their frequency."""
    out = x.clone()
    for k in range(len(x) // 2):
        angle = torch.tensor(position * 10000.0 ** (-2 * k / len(x)))
        a, b = x[2 * k], x[2 * k + 1]
        out[2 * k] = a * angle.cos() - b * angle.sin()
        out[2 * k + 1] = a * angle.sin() + b * angle.cos()
    return out


def attention(layer, rows, table):
    rows = [norm(row, layer.norm.gain) for row in rows]
    null_key, null_value = layer.null_kv
    halves = [layer.key_value(row).chunk(2) for row in rows]
    keys = [null_key, *(turned(key, j) for j, (key, _) in enumerate(halves))]
    values = [null_value, *(value for _, value in halves)]
    out = []
    for i, row in enumerate(rows):
        heads = []
        for h, query in enumerate(layer.query(row).chunk(CONFIG.heads)):
            query = turned(query, i)
            seen = range(i + 2)  # the null key, and the tokens up to this one
            logits = [
                16 * torch.cosine_similarity(query, keys[j], dim=0) + table[max(i - j, 0), h]
                for j in seen
            ]
            weights = torch.stack(logits).softmax(0)
            heads.append(sum(weights[j] * values[j] for j in seen))
        out.append(norm(layer.output(torch.cat(heads)), layer.output_norm.gain))
    return out


def feed_forward(layers, row):
    value, gate = layers[1](norm(row, layers[0].gain)).chunk(2)
    return layers[4](norm(value * gate * torch.sigmoid(gate), layers[3].gain))


@torch.no_grad()
def test_one_sample_by_hand(prior):
    x_t, condition = torch.randn(2, 1, 1, DIM)
    rows = [*prior.padding[0], condition[0, 0], prior.time.weight[3], x_t[0, 0], prior.query]
    assert len(rows) < 16, "so that every distance has a bucket of its own"
    for layer in prior.layers:
        added = attention(layer.attention, rows, prior.relative_bias.weight)
        rows = [row + more for row, more in zip(rows, added, strict=True)]
        rows = [row + feed_forward(layer.feed_forward, row) for row in rows]
    last = rows[-1] / rows[-1].max()
    expected = prior.output(norm(last, prior.norm.gain))
    pred = prior(x_t, torch.tensor([3]), condition)
    torch.testing.assert_close(pred[0, 0], expected, rtol=1e-4, atol=1e-4)
    assert prior.scale == math.sqrt(DIM)


@torch.no_grad()
def test_what_is_dropped_has_no_say(prior):
    timestep = torch.tensor([3, 3])
    x_t, condition = torch.randn(2, 2, 1, DIM)
    drop = torch.tensor([True, True])
    for drops in ((drop, None), (None, drop)):
        pred = prior(x_t, timestep, condition, *drops)
        other = condition if drops[0] is None else torch.randn(2, 1, DIM)
        noisy = x_t if drops[1] is None else torch.randn(2, 1, DIM)
        torch.testing.assert_close(pred, prior(noisy, timestep, other, *drops))
        assert not torch.allclose(pred, prior(x_t, timestep, condition))


def test_more_than_one_token_is_refused():
    with pytest.raises(ValueError, match=r"model\.prior\.form: got 'query' and 5 tokens"):
        MindEye(ModelConfig(prior=CONFIG), 9, 5, DIM)
