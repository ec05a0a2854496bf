"""NSD's subjects: voxel counts, ncsnr, and the presets of a simulated brain."""

from mindeye_dist.errors import InputError
from mindeye_dist.simulation.config import SimulationConfig

NSD_VOXELS = {
    "subj01": 15724,
    "subj02": 14278,
    "subj03": 15226,
    "subj04": 13153,
    "subj05": 13039,
    "subj06": 17907,
    "subj07": 12682,
    "subj08": 14386,
}
"""Voxels of nsdgeneral."""


NSD_NCSNR = {
    "subj01": (-0.893, 0.449),
    "subj02": (-0.876, 0.540),
    "subj03": (-1.079, 0.45),
    "subj04": (-1.079, 0.45),
    "subj05": (-0.852, 0.487),
    "subj06": (-1.022, 0.45),
    "subj07": (-1.101, 0.434),
    "subj08": (-1.139, 0.45),
}
"""Mean and standard deviation of ln(ncsnr). Subjects 1, 2, 5, 7: early and higher voxels of
DeepNSD's table (Conwell et al.) pooled; the others are a guess, for want of a public table."""


def nsd_preset(subject: str) -> SimulationConfig:
    """Return the settings that mimic a subject of NSD in voxels, ncsnr and difficulty.

    Tuning, unexplained share and noise shares are chosen so that ridge regression retrieves subject
    1's pictures about as well as it does from real responses, after one session and after all of
    them (see docs/simulated-brains.md).

    Raises:
        InputError: no such subject.
    """
    if subject not in NSD_VOXELS:
        raise InputError(f"got subject {subject!r}, expected one of {', '.join(NSD_VOXELS)}")
    log_mean, log_sd = NSD_NCSNR[subject]
    return SimulationConfig(
        subject=subject,
        num_voxels=NSD_VOXELS[subject],
        num_components=100,
        num_lowlevel=32,
        tuning_exponent=1.2,
        unexplained_fraction=0.78,
        shared_fraction=0.0,
        lowrank_fraction=0.45,
        lowrank_rank=50,
        smooth_fraction=0.45,
        ncsnr_log_mean=log_mean,
        ncsnr_log_sd=log_sd,
    )
