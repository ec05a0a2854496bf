"""Simulation: a simulated brain with known truth and NSD's noise, and the scenes that it looks at.

In: pictures (rendered scenes, or files), their clip_tokens and the settings of `config.py`. Out:
shards in the published layout, sets of targets, and the truth (tuning, noise, ncsnr) from which the
ideal decoder is computed. Read `subject_shards.py` first: it runs the whole way. `brain.py` is the
brain, `tuning.py` the features that its voxels respond to, `scenes.py` the pictures.
"""
