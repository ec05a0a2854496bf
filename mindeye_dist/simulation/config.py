"""Every knob of the simulated brain (data/simulate.py), as a run's are in config.py."""

from dataclasses import dataclass

from mindeye_dist.strict import check


@dataclass(frozen=True, kw_only=True)
class SimulationConfig:
    """A simulated subject: voxels with known tuning and NSD's noise (data/simulate.py).

    The defaults are the demo's subject, which a small model can decode well but not perfectly;
    `nsd_preset` gives subjects of NSD's size and difficulty.
    """

    subject: str = "subj01"
    seed: int = 0
    num_voxels: int = 4000
    num_repeats: int = 3
    early_fraction: float = 0.296
    """Share of voxels in V1-hV4, driven by low-level features through receptive fields."""
    num_components: int = 64
    """Principal components of the clip_tokens that higher voxels are tuned to."""
    num_lowlevel: int = 64
    """Principal components of the low-level grid that early voxels see."""
    tuning_exponent: float = 0.2
    """Component k enters the tuning with standard deviation k**-tuning_exponent."""
    tuning_fwhm: float = 4.0
    """Width along the sheet over which voxels share their tuning (voxels)."""
    unexplained_fraction: float = 0.2
    """Share of the signal variance that is driven by the picture but not by the features."""
    shared_fraction: float = 0.75
    """Share of that variance along the tuning, where no number of voxels averages it away."""
    lowrank_fraction: float = 0.25
    """Share of the noise variance that is common to the whole brain (arousal, motion)."""
    lowrank_rank: int = 20
    smooth_fraction: float = 0.25
    """Share of the noise variance that neighbouring voxels have in common."""
    smooth_fwhm: float = 4.0
    """Width of that common noise along the sheet (voxels)."""
    ncsnr_log_mean: float = -0.9
    ncsnr_log_sd: float = 0.45
    trials_per_session: int = 750
    session_gain_sd: float = 0.03
    """Standard deviation over sessions of the gain of the signal."""

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
