"""Changes of stored run settings since format 0, with which earlier checkpoints are read."""

from mindeye_dist.strict import Change

CHANGES = (
    Change(
        format=1,
        removed={
            "data.sampling": "permutation",
            "data.count_copies": False,
            "model.prior.half_precision_eps": 1e-5,
            "loss.overwrite_own_partner": False,
            "optimizer.decay_gains": False,
        },
    ),
)
"""Add a change when a setting is renamed, removed, or new with a default that differs from the
behaviour before."""
