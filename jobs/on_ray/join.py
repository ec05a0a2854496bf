"""Joining Ray: the cluster that RAY_ADDRESS names, or a new one on this machine."""

import logging
import os
import sys

import ray


def join() -> bool:
    """Join the Ray cluster that RAY_ADDRESS names, or start one on this machine.

    Returns:
        Whether RAY_ADDRESS names a cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    named = bool(os.environ.get("RAY_ADDRESS"))
    print("joining the Ray cluster" if named else "starting Ray on this machine", file=sys.stderr)
    ray.init(
        address=None if named else "local",
        # Workers report through the board; their own output would tear up the progress line.
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    return named
