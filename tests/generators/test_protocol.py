"""The sampling loop that generators share. Oracles: diffusers' own loop, and closed forms."""

import pytest
import torch
from diffusers import DDIMScheduler, UniPCMultistepScheduler

from mindeye_dist.generators.protocol import denoise, noise_like, once_each

CPU = torch.device("cpu")


def schedule(kind=UniPCMultistepScheduler):
    return kind(
        num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", prediction_type="sample"
    )


def network(x, timestep):
    return torch.tanh(x * (1 + timestep / 100))


@pytest.mark.parametrize("kind", [UniPCMultistepScheduler, DDIMScheduler])
def test_from_noise_is_the_loop_of_diffusers(kind):
    noise = noise_like((3, 4, 4), [1, 2], CPU)
    expected, scheduler = noise.clone(), schedule(kind)
    scheduler.set_timesteps(7)
    for timestep in scheduler.timesteps:
        expected = scheduler.step(network(expected, timestep), timestep, expected).prev_sample
    torch.testing.assert_close(denoise(schedule(kind), network, noise, steps=7), expected)


def test_strength_runs_the_last_steps_and_none_at_0():
    """img2img: 0.85 of 20 steps are 17; the start is the picture, as noisy as the first of them."""
    noise, init = noise_like((3, 4, 4), [1], CPU), torch.full((1, 3, 4, 4), 0.3)
    seen = []

    def watch(x, timestep):
        seen.append((int(timestep), x))
        return network(x, timestep)

    denoise(schedule(), watch, noise, steps=20, init=init, strength=0.85)
    full = schedule()
    full.set_timesteps(20)
    assert [timestep for timestep, _ in seen] == full.timesteps[3:].tolist()
    kept = full.alphas_cumprod[seen[0][0]]
    torch.testing.assert_close(seen[0][1], kept.sqrt() * init + (1 - kept).sqrt() * noise)
    untouched = denoise(schedule(), watch, noise, steps=20, init=init, strength=0.0)
    assert torch.equal(untouched, init)
    assert len(seen) == 17


def test_noise_belongs_to_its_seed_alone():
    together, alone = noise_like((2, 2), [5, 6, 7], CPU), noise_like((2, 2), [6], CPU)
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(together[0], together[1])


def test_equal_rows_are_computed_once():
    """Oracle: the function of every row, which sees each distinct one a single time."""
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0], [1.0, 4.0]])
    seen = []

    def square(rows):
        seen.extend(rows.tolist())
        return rows.square()

    torch.testing.assert_close(once_each(square, values), values.square())
    assert sorted(seen) == [[1.0, 2.0], [1.0, 4.0], [3.0, 4.0]]
