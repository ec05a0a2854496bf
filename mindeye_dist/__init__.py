"""MindEye, decoding seen pictures from fMRI, as a system that scales."""

__version__ = "0.1.0"
