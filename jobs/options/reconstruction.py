"""Drawing: a run's checkpoints, its generator and its encoder -> what draws pictures from voxels.

The same for evaluation, for batches and for the service.
"""

from dataclasses import dataclass, field

from jobs.options.checkpoints import RunOptions
from jobs.options.generators import GeneratorOptions
from mindeye_dist.decoding.config import ReconstructionConfig
from mindeye_dist.strict import check


@dataclass(frozen=True, kw_only=True)
class DrawOptions(RunOptions):
    """Which checkpoints, and what draws from what they say."""

    draw: GeneratorOptions = field(default_factory=GeneratorOptions)
    """The generator; it computes on --device as the other models do."""
    reconstruction: ReconstructionConfig = field(default_factory=ReconstructionConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        place_of = self.draw.device
        check(place_of in ("cpu", self.device), "draw.device", place_of, f"{self.device}, --device")
