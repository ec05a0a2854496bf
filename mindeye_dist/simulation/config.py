"""Settings of a simulated brain and of the pictures that it sees."""

from dataclasses import dataclass, field

from mindeye_dist.strict import check

GENERATOR_SERIES = 1_000_003
"""Seed of the scenes that the project's generator learns from; no subject may see them."""


@dataclass(frozen=True, kw_only=True)
class SimulationConfig:
    """A simulated subject: voxels with known tuning and NSD's noise (brain.py).

    The defaults are the demo's subject, which a small model can decode well but not perfectly;
    `nsd_preset` gives subjects of NSD's size and difficulty.
    """

    subject: str = "subj01"
    """Name of the subject in the manifest."""
    seed: int = 0
    """Seed of tuning and noise; a subject's name enters as well."""
    num_voxels: int = 4000
    """Number of voxels."""
    num_repeats: int = 3
    """Number of repeats of each picture."""
    early_fraction: float = 0.296
    """Share of voxels in V1-hV4, which respond to low-level features in receptive fields."""
    num_components: int = 64
    """Number of principal components of the clip_tokens to which higher voxels are tuned."""
    num_lowlevel: int = 64
    """Number of principal components of the low-level grid to which early voxels are tuned."""
    tuning_exponent: float = 0.2
    """Exponent of the tuning: component k has standard deviation k**-tuning_exponent."""
    tuning_fwhm: float = 4.0
    """Width along the sheet over which voxels have similar tuning (voxels)."""
    unexplained_fraction: float = 0.2
    """Share of the signal variance that the picture drives but the features do not explain."""
    shared_fraction: float = 0.75
    """Share of the unexplained variance along the tuning, which no number of voxels averages
    out."""
    lowrank_fraction: float = 0.25
    """Share of the noise variance that is common to the whole brain (arousal, motion)."""
    lowrank_rank: int = 20
    """Rank of the common noise."""
    smooth_fraction: float = 0.25
    """Share of the noise variance that neighbouring voxels share."""
    smooth_fwhm: float = 4.0
    """Width of the neighbours' shared noise along the sheet (voxels)."""
    ncsnr_log_mean: float = -0.9
    """Mean over voxels of ln(ncsnr)."""
    ncsnr_log_sd: float = 0.45
    """Standard deviation over voxels of ln(ncsnr)."""
    trials_per_session: int = 750
    """Number of trials that are z-scored together."""
    session_gain_sd: float = 0.03
    """Standard deviation over sessions of the signal's gain."""

    def __post_init__(self) -> None:
        fractions = ("early", "unexplained", "shared", "lowrank", "smooth")
        for name in (f"{fraction}_fraction" for fraction in fractions):
            check(0 <= getattr(self, name) <= 1, f"simulation.{name}", getattr(self, name), "0..1")
        common = self.lowrank_fraction + self.smooth_fraction
        check(common < 1, "simulation.lowrank_fraction + smooth_fraction", common, "below 1")
        least = {"num_repeats": 1, "lowrank_rank": 1, "num_voxels": 2, "trials_per_session": 10}
        for name, bound in least.items():
            got = getattr(self, name)
            check(got >= bound, f"simulation.{name}", got, f"at least {bound}")
        for name in ("tuning_fwhm", "smooth_fwhm"):
            check(getattr(self, name) > 0, f"simulation.{name}", getattr(self, name), "above 0")


@dataclass(frozen=True, kw_only=True)
class SimulatedDataset:
    """Simulated subjects and the pictures that they see."""

    images: str = ""
    """Folder or tar of JPEG or PNG pictures; rendered scenes without it."""
    preset: str = ""
    """nsd-subj01 .. nsd-subj08: voxels and noise of a subject of NSD, instead of --simulation."""
    subjects: tuple[str, ...] = ("subj01",)
    """Subjects to simulate; they see the same pictures with brains of their own. A preset names its
    own."""
    train_pictures: int = 3000
    val_pictures: int = 300
    test_pictures: int = 500
    side: int = 160
    """Width and height of the stored pictures (pixels)."""
    dim: int = 0
    """Width of a clip_token: principal components kept of the encoder's channels. 0 takes the fixed
    projection of rendered scenes, which the project's generator draws from; 64 components of other
    pictures, and for a --preset, which was calibrated so."""
    latent_side: int = 28
    """Width of the low-level pipeline's blurry pictures (pixels), four times the encoder's map."""
    seed: int = 0
    """Which scenes are rendered, or how the pictures are shuffled into splits."""
    simulation: SimulationConfig = field(default_factory=SimulationConfig)

    def __post_init__(self) -> None:
        check(
            bool(self.images) or self.seed != GENERATOR_SERIES,
            "seed",
            self.seed,
            "another: these scenes are the generator's, which would have seen the test pictures",
        )

    @property
    def counts(self) -> dict[str, int]:
        """Pictures of each split, in the order in which they are dealt."""
        return {"train": self.train_pictures, "val": self.val_pictures, "test": self.test_pictures}
