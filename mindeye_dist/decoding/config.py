"""Settings of a reconstruction: from voxels to candidates, and from candidates to a picture."""

from dataclasses import dataclass

from mindeye_dist.strict import check, check_counts, check_fractions


@dataclass(frozen=True, kw_only=True)
class ReconstructionConfig:
    """How a brain becomes candidates, and candidates a picture (MindEye, section 3.3)."""

    candidates: int = 16
    """Pictures drawn for each brain; the one closest to its projector's output is chosen."""
    strength: float = 0.85
    """img2img: share of the blurry picture that is drawn anew; 1 starts from noise alone."""
    seed: int = 42
    batch_size: int = 16
    """Candidates at once; pictures do not depend on it. GPUs want more than a CPU's caches."""
    shared_noise: bool = False
    """Give the generator the same noise for every picture, as published; candidates differ."""
    averaged_samples: int = 0
    """Samples of the prior whose mean every candidate of a brain is drawn from: what is uncertain
    in them cancels. 0 draws each candidate from a sample of its own, as published."""

    def __post_init__(self) -> None:
        check_fractions("reconstruction", self, "strength")
        got = self.averaged_samples
        check(got >= 0, "reconstruction.averaged_samples", got, "0 or more")
        check_counts("reconstruction", self, "candidates", "batch_size")
