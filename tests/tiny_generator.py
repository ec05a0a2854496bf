"""A generator for tests: tokens set the colours of a picture's cells, seeds their noise."""

import torch
from torch.nn import functional

from mindeye_dist.generators.protocol import check_request, noise_like


class TinyGenerator:
    """Follows the protocol in a few lines, for the tiny subject's 5 x 16 tokens."""

    name, digest, encoder_digest = "tiny-generator", "12" * 32, ""
    token_shape, side = (5, 16), 16

    def __init__(self):
        """Draw what tokens mean."""
        self.mixture = torch.randn(80, 48, generator=torch.Generator().manual_seed(0)) / 9
        self.calls = []

    def __call__(self, tokens, seeds, init=None, strength=1.0):
        """Return pictures of 4 x 4 cells, mixed with those to start from."""
        check_request(self, tokens, seeds, init, strength)
        self.calls.append(len(tokens))
        colours = (tokens.flatten(1) @ self.mixture).unflatten(1, (3, 4, 4))
        noise = noise_like((3, 4, 4), seeds, tokens.device)
        drawn = functional.interpolate((colours + noise / 2).sigmoid(), (16, 16), mode="bilinear")
        if init is None:
            return drawn
        start = functional.interpolate(init, (16, 16), mode="bilinear")
        return strength * drawn + (1 - strength) * start
