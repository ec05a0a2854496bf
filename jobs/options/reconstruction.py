"""Flags of a reconstruction: checkpoints, generator and settings.

Evaluation, batch reconstruction and the service share them.
"""

from dataclasses import dataclass, field

from jobs.options.checkpoints import RunOptions
from jobs.options.generators import GeneratorOptions
from mindeye_dist.decoding.config import ReconstructionConfig
from mindeye_dist.strict import check


@dataclass(frozen=True, kw_only=True)
class DrawOptions(RunOptions):
    """Checkpoints, and the generator that draws pictures from their predictions."""

    draw: GeneratorOptions = field(default_factory=GeneratorOptions)
    """Generator; it computes on --device as the other models do."""
    reconstruction: ReconstructionConfig = field(default_factory=ReconstructionConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        got, expected = self.draw.device, self.device
        check(got in ("cpu", expected), "draw.device", got, f"{expected}, as --device")
