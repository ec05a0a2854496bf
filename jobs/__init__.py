"""Entry points, each `python jobs/NAME.py`: the only place that knows Ray and the command line.

`jobs/NAME.py` parses the command line into the options of `jobs/options/NAME.py` and hands them to
`run` in `jobs/work/NAME.py`, imported only then, so that `--help` loads no PyTorch.
`jobs/opening` opens the objects that options name. Read `worker.py` first.
"""
