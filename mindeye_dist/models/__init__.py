"""Models: the networks that a run trains.

In: voxels (batch, voxels). Out: tokens (batch, tokens, dim) of the backbone, projected tokens for
retrieval, the prior's estimate for reconstruction, or VAE latents of the low-level pipeline. Read
`mindeye.py` first: it joins `backbone.py`, `projector.py` and `prior.py`. `lowlevel.py` is the
other pipeline, `build.py` chooses between them, `diffusion.py` holds noise schedule and sampler.
"""
