"""Frozen networks, never trained in a run: image encoders, codecs, teachers, metric networks.

In: pictures (batch, 3, height, width) with values in [0, 1]. Out: clip_tokens (batch, tokens, dim),
latents (batch, channels, rows, columns), feature maps, or features by which pictures are scored.
Each has a digest of weights and preprocessing, which names its targets. Read `encoders.py` first,
the protocol of an image encoder, then `codecs.py`, the protocol of a codec.
"""
