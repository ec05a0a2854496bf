"""Options of `jobs/embed_brains.py`."""

from dataclasses import dataclass

from jobs.options.checkpoints import CheckpointOptions
from jobs.options.splits import SplitOptions, check_split


@dataclass(frozen=True, kw_only=True)
class EmbedBrains(SplitOptions, CheckpointOptions):
    """Embed the brains of a split; each embedding is float32 of unit norm, tokens x dim."""

    pictures_per_shard: int = 64
    """What a killed run loses of a worker's work, at most."""

    def __post_init__(self) -> None:
        check_split(self)
