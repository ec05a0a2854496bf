"""Seeds as functions of their purpose.

Every random draw of a run is made by a generator whose seed is derived from the run's seed and the
draw's place (step, position in the global batch), so that it does not depend on the number of
workers, on what was drawn before, or on where a run was interrupted.
"""

import hashlib

import numpy as np
import torch


def seed_for(*parts: int | str) -> int:
    """Return a 63-bit seed for a tuple such as `(seed, "order", epoch)`."""
    text = "/".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def numpy_generator(*parts: int | str) -> np.random.Generator:
    """Return a NumPy generator seeded by `seed_for(*parts)`."""
    return np.random.default_rng(seed_for(*parts))


def torch_generator(device: torch.device, *parts: int | str) -> torch.Generator:
    """Return a torch generator on `device` seeded by `seed_for(*parts)`."""
    return torch.Generator(device).manual_seed(seed_for(*parts))
