"""Options: dataclasses whose fields are the flags of the entry points.

In: the library's settings classes. Out: validated options, read by `jobs/opening` and `jobs/work`.
Imports neither PyTorch nor NumPy, so that `--help` answers at once. Read `checkpoints.py` first:
most jobs begin with a checkpoint.
"""
