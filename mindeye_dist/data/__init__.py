"""Data: shards -> batches.

In: a store with a manifest, and the settings of `DataConfig`. Out: `Batch` with voxels (batch,
voxels) and targets, in an order that is a function of seed and epoch, the same for any number of
workers. Read `manifest.py` (what a store holds), then `dataset.py` (samples of a split) and
`loader.py` (order and read-ahead). Every member that is read is verified in `members.py`.
"""
