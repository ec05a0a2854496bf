"""Decoding: a trained checkpoint applied to voxels.

In: a checkpoint's folder and voxels (brains, voxels). Out: embeddings for retrieval, samples of
the prior, latents of blurry pictures, and reconstructed pictures; shards of reconstructions.
`pools/` holds the pictures that retrieval chooses from. Read predictor.py first: evaluation, batch
jobs and the service all infer through it.
"""
