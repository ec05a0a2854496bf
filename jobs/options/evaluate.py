"""Options of `jobs/evaluate.py`."""

from dataclasses import dataclass, field

from jobs.options.judges import NetworkOptions
from jobs.options.reconstruction import DrawOptions
from mindeye_dist.strict import check


@dataclass(frozen=True, kw_only=True)
class Evaluate(DrawOptions):
    """Score a checkpoint on the test split and write its report."""

    out: str = ""
    """Folder for the report; by default the run's, for models:/NAME@ALIAS runs/NAME-ALIAS, for
    another checkpoint of no run CHECKPOINT-report beside it."""
    num_examples: int = 12
    """Retrieval examples on the page, each direction."""
    seed: int = 0
    pictures: int = 100
    """Test pictures that are drawn and scored; 0 draws none."""
    reconstructions: str = ""
    """Folder or s3:// prefix of jobs/reconstruct.py: its pictures of the test split, made by the
    same checkpoints and settings, are scored as the model's; their controls are drawn."""
    control_candidates: int = 4
    """Candidates of what is drawn for comparison alone."""
    pool: str = ""
    """Pool of jobs/pool.py, whose nearest picture is scored beside what is drawn."""
    networks: NetworkOptions = field(default_factory=NetworkOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.pictures == 0 or self.pictures > 1, "pictures", self.pictures, "0, or 2 or more")
        drawn = self.pictures > 0 or not self.reconstructions
        check(drawn, "reconstructions", self.reconstructions, "none beside --pictures 0")
        got = self.control_candidates
        check(got >= 1, "control_candidates", got, "at least 1")
