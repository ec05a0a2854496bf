"""Work of the entry points, one module each.

In: the options that `jobs/NAME.py` parsed. Out: files in the output folder, progress on stderr, the
result's path on stdout. Each module's entry is `run`, its last function. Read `train.py` first.
"""
