"""Sweeps: what `jobs/tune.py` is made of, on Ray Tune.

In: a run, a space of its settings and a budget. Out: a folder of trials, their ranking, a page, and
the best checkpoint in MLflow's registry. Read `plan.py` first (a sweep and its checks), then
`run.py` (Ray Tune), `trial.py` (one training) and `results.py` (the end).
"""
