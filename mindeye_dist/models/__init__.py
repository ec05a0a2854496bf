"""Models: backbone, projector, prior, frozen encoders."""
