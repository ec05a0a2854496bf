"""Ray: joining a cluster, training workers, parallel map, live progress and Prometheus metrics.

Ray is named here, in `jobs/sweeps` and in `serve/app.py`, and nowhere else. In: the
settings of a run, or numbered items and a callable. Out: checkpoints, or the items' answers. Read
`launch.py` first.
"""
