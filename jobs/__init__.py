"""Entry points, each `python jobs/NAME.py`: the only place that knows Ray and the command line."""
