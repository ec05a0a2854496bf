"""Flags of `jobs/evaluate.py`: a checkpoint, its generator, and scores of its pictures."""

from dataclasses import dataclass, field

from jobs.options.judges import NetworkOptions
from jobs.options.reconstruction import DrawOptions
from mindeye_dist.strict import check


@dataclass(frozen=True, kw_only=True)
class Evaluate(DrawOptions):
    """Score a checkpoint on the test split and write its report."""

    out: str = ""
    """Folder of the report; by default the run's. The default for models:/NAME@ALIAS is
    runs/NAME-ALIAS, for any other checkpoint outside a run CHECKPOINT-report beside it."""
    num_examples: int = 12
    """Number of retrieval examples on the page, for each direction."""
    seed: int = 0
    """Seed of the choice of examples and pictures."""
    pictures: int = 100
    """Number of test pictures to reconstruct and score; 0 for none."""
    reconstructions: str = ""
    """Output of jobs/reconstruct.py (folder or s3:// prefix) for the test split, made with the same
    checkpoints and settings: scored as the model's pictures, so that only the controls are
    drawn."""
    control_candidates: int = 4
    """Number of candidates for each control picture."""
    pool: str = ""
    """Folder of a pool of jobs/pool.py, whose nearest picture is scored beside the drawn one."""
    networks: NetworkOptions = field(default_factory=NetworkOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.pictures == 0 or self.pictures > 1, "pictures", self.pictures, "0, or 2 or more")
        drawn = self.pictures > 0 or not self.reconstructions
        check(drawn, "reconstructions", self.reconstructions, "none beside --pictures 0")
        got = self.control_candidates
        check(got >= 1, "control_candidates", got, "at least 1")
