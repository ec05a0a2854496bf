"""MindEye, decoding seen pictures from fMRI, as a system that scales."""

import os

__version__ = "0.1.0"

# Torch asks Linux for huge pages where it is told to before its first tensor. Without, a third of a
# training step on CPUs goes into page faults.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
