"""Generators: clip_tokens -> pictures.

In: tokens (batch, tokens, dim), a seed for each picture and, for img2img, low-level pictures. Out:
pictures (batch, 3, height, width) with values in [0, 1]. Read `protocol.py` first. `versatile.py`
is the published generator, `unclip.py` takes a single embedding; both use `latent_diffusion.py`.
`small.py` is the project's own, with its network and its training.
"""
