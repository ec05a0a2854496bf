"""Evaluation: a checkpoint and the test split -> scores, beside chance, ceilings and controls.

In: a Predictor or Reconstructor, and the splits of its subject. Out: JSON-able scores with 95 %
intervals, and examples for the page (results.py). Read retrieval.py first; then lowlevel.py for
blurry pictures, and pictures.py for reconstructions, whose controls controls.py generates.
"""
