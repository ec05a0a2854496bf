"""Ingest: data and weights of others -> this project's formats.

In: NIfTI volumes with a mask and a table of events, published shards, pictures, or the released
checkpoints. Out: shards with manifest and indexes, shards of targets, or a checkpoint. Read
`nifti.py` for fMRI (it z-scores voxels), `published_shards.py` for NSD's shards, `target_shards.py`
for targets, `mindeye1_weights.py` for weights.
"""
