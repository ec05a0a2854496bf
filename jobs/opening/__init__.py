"""Opening: from options to the objects that they name.

In: groups of options that several jobs share. Out: checkpoints with their data, encoders,
generators, judges, splits of voxels, pictures. Errors name the flag that is to be changed. Read
`checkpoints.py` first, then `reconstruction.py`, which opens a whole pipeline.
"""
