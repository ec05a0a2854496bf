"""Reports: results of an evaluation, and a run's journal -> report.json and report.html.

In: an Evaluation (evaluation/results.py) and the journal's rows. Out: one page without external
files: templates/*.j2 with SVG plots and data-URI pictures. Read page.py first; pictures.py prepares
the section on reconstructions, words.py its sentences.
"""
