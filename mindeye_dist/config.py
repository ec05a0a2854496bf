"""Every knob of a run, on one page.

Frozen dataclasses, composed in `ExperimentConfig`; strict.py reads and changes them. The dotted
path of a knob (`optimizer.max_lr`) is also its command-line flag and its name in a search space.

Facts of the data (voxels, tokens, their width) are not here: they come from the manifest. Names
follow Scotti et al. (2023), MindEye; defaults are the published values unless said otherwise.
"""

from dataclasses import dataclass, field
from typing import Literal

from mindeye_dist.strict import Change, check

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
"""Changes of stored configs since format 0: add one here when a setting is renamed, removed, or new
with a default that differs from the behaviour before."""


@dataclass(frozen=True, kw_only=True)
class ComputedConfig:
    """clip_tokens computed from the pictures while training, instead of read from a stored set.

    Needs no jobs/embed.py first; costs an encoder on every worker and its time at every step.
    """

    encoder: str = ""
    """Frozen model by its name in jobs/options/encoders.py; none reads the stored set."""
    weights: str = ""
    final: bool = False
    antialias: bool = False
    variants: int = 0
    augmentation: Literal["release", "development"] = "release"
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the shards are and how they are read."""

    url: str = "data/demo"
    """Folder or s3:// prefix that holds manifest.json."""
    subject: str = "subj01"
    """Subject to train on, by its name in the manifest."""
    targets: str = "efficientnet-lite0"
    """Name of the clip_tokens set in the manifest (high-level pipeline)."""
    latents: str = "pixels"
    """Name of the set of latents in the manifest (low-level pipeline)."""
    teacher: str = "efficientnet-lite0-map"
    """Name of the teacher's feature_map set in the manifest (low-level pipeline)."""
    augmented: bool = True
    """Train on the augmented variants of a target where its set has any; validation never does."""
    train_on: Literal["train", "train+val"] = "train"
    """`train+val` is for a final run: its last checkpoint counts, since val is no judge then."""
    repeat_draw: Literal["cycle", "random", "mean", "random_combine"] = "random_combine"
    """Way to make one training response of a picture's repeats: each in turn, one at random, their
    mean, or the published mixture of these. Evaluation averages them."""
    computed: ComputedConfig = field(default_factory=ComputedConfig)
    cache_gib: float = 4.0
    """Decoded samples of a split from S3, and computed targets, that each worker keeps in memory at
    most (GiB). A folder's are read each time, as the system keeps what was read."""
    prefetch_batches: int = 8
    """Batches read ahead of the training step."""
    disk_cache: str = ""
    """Folder of this machine that keeps what was read from S3; none by default."""
    disk_cache_gib: float = 50.0
    """The least recently used of it is deleted above (GiB)."""
    on_bad_sample: Literal["raise", "skip"] = "raise"
    """What training does where a sample is missing, damaged or not finite: `skip` lets another take
    its place in the batch, names it in the log and counts it. Validation always raises."""
    max_bad_samples: int = 10
    """Different bad samples that `skip` bears; one more stops the run with their list."""

    def __post_init__(self) -> None:
        got = self.max_bad_samples
        check(got >= 0, "data.max_bad_samples", got, "0 or more")


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Residual MLP from voxels to tokens (MindEye, section 3.1)."""

    hidden: int = 4096
    num_blocks: int = 4
    input_dropout: float = 0.5
    block_dropout: float = 0.15

    def __post_init__(self) -> None:
        _check_sizes("model.backbone", self, "hidden", "num_blocks")
        _check_shares("model.backbone", self, "input_dropout", "block_dropout")


@dataclass(frozen=True, kw_only=True)
class ProjectorConfig:
    """Token-wise MLP in front of the contrastive loss."""

    hidden: int = 2048

    def __post_init__(self) -> None:
        _check_sizes("model.projector", self, "hidden")


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """Diffusion prior over clip_tokens (MindEye, section 3.2)."""

    form: Literal["tokens", "query"] = "tokens"
    """`tokens` denoises all tokens at once; `query` is DALL-E 2's prior, for one embedding."""
    padding_tokens: int = 256
    """Learned tokens in front, where a caption would stand (form `query` only)."""
    depth: int = 6
    heads: int = 12
    head_dim: int = 64
    feedforward_factor: int = 4
    timesteps: int = 100
    condition_dropout: float = 0.2
    """Chance that a sample's condition is replaced by the null table; its noisy tokens likewise."""

    def __post_init__(self) -> None:
        sizes = ("depth", "heads", "head_dim", "feedforward_factor", "timesteps")
        _check_sizes("model.prior", self, *sizes)
        _check_shares("model.prior", self, "condition_dropout")


@dataclass(frozen=True, kw_only=True)
class LowLevelConfig:
    """Residual MLP and upsampler from voxels to latents (MindEye, section 3.4)."""

    hidden: int = 4096
    num_blocks: int = 4
    input_dropout: float = 0.5
    block_dropout: float = 0.25
    map_channels: int = 64
    upsampler_channels: tuple[int, ...] = (64, 128, 256)
    """Channels from the latents' resolution down to the map's, halving the side each time."""
    head_hidden: int = 512

    def __post_init__(self) -> None:
        _check_sizes("model.lowlevel", self, "hidden", "num_blocks", "map_channels", "head_hidden")
        _check_shares("model.lowlevel", self, "input_dropout", "block_dropout")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The high-level pipeline (backbone, projector and prior) and the low-level one."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    projector: ProjectorConfig = field(default_factory=ProjectorConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    lowlevel: LowLevelConfig = field(default_factory=LowLevelConfig)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """BiMixCo first, SoftCLIP after, the prior's loss throughout (MindEye, section 3.3)."""

    mixco_fraction: float = 0.33
    """Share of the epochs that use BiMixCo (0..1)."""
    mix_alpha: float = 0.15
    """mix_coef is drawn from Beta(mix_alpha, mix_alpha)."""
    mix_probability: float = 0.5
    """Chance that a sample is mixed at all."""
    mixco_temperature: float = 0.006
    soft_temperature_start: float = 0.004
    soft_temperature_end: float = 0.0075
    contrastive_weight: float = 1.0
    prior_weight: float = 30.0
    mix_prior_target: bool = True
    """Mix the prior's target like its condition; the released trainer left the target unmixed."""
    latent_weight: float = 1 / 0.18215
    """Low level: weight of the latents' absolute error, one over the published VAE's scale."""
    map_weight: float = 0.1
    """Low level: weight of the soft contrastive loss against the teacher's feature map."""
    map_temperature: float = 0.075

    def __post_init__(self) -> None:
        _check_shares("loss", self, "mixco_fraction", "mix_probability")
        for name in ("mix_alpha", *(n for n in vars(self) if "temperature" in n)):
            check(getattr(self, name) > 0, f"loss.{name}", getattr(self, name), "a value above 0")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with the OneCycle schedule, momentum cycling included."""

    max_lr: float = 3e-4
    warmup_epochs: float = 2.0
    start_factor: float = 25.0
    """The first learning rate is max_lr / start_factor."""
    final_factor: float = 1000.0
    """The last learning rate is max_lr / start_factor / final_factor."""
    momentum_high: float = 0.95
    momentum_low: float = 0.85
    second_moment_decay: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip_norm: float = 0.0
    """Largest norm of the whole gradient; 0 leaves it alone, as published."""

    def __post_init__(self) -> None:
        check(self.max_lr > 0, "optimizer.max_lr", self.max_lr, "a value above 0")
        check(self.clip_norm >= 0, "optimizer.clip_norm", self.clip_norm, "at least 0")
        check(self.warmup_epochs >= 0, "optimizer.warmup_epochs", self.warmup_epochs, "at least 0")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Length and batches, none of which depends on the number of workers."""

    seed: int = 42
    epochs: int = 240
    global_batch_size: int = 32
    """Samples of one optimizer step over all workers; all of them are negatives of each other."""
    max_micro_batch_size: int = 4096
    """Most samples on one device at once; accumulation follows, with the same negatives."""
    validate_every_epochs: int = 5
    on_non_finite: Literal["stop", "skip"] = "stop"
    """What follows a loss or gradient that is NaN or infinite: `skip` leaves weights and moments as
    they were before the step, names the batch in the log, and goes on with the next."""
    max_non_finite: int = 5
    """Batches of a run that `skip` leaves out; one more stops it."""
    check_ranks_every: int = 50
    """Steps between comparisons of the weights that all workers hold, to the bit."""

    def __post_init__(self) -> None:
        _check_sizes("training", self, "epochs", "global_batch_size")
        _check_sizes("training", self, "max_micro_batch_size", "validate_every_epochs")
        _check_sizes("training", self, "check_ranks_every")
        check(self.max_non_finite >= 0, "training.max_non_finite", self.max_non_finite, "0 or more")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When checkpoints are written and how many stay."""

    every_steps: int = 500
    keep: int = 2
    """Newest checkpoints that are kept besides the best one."""
    in_background: bool = True
    """Write them while training goes on; takes memory for a copy of weights and moments."""
    copy_to: str = ""
    """Folder or s3:// prefix, of this run alone, that all are copied to and --resume finds them."""

    def __post_init__(self) -> None:
        _check_sizes("checkpoint", self, "every_steps", "keep")


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """Machines, and how the model is spread over them; only precision and states change results."""

    num_workers: int = 1
    min_workers: int = 0
    """Fewest workers with which a run on Ray begins, and goes on when machines are lost, which
    max_restarts must allow; it takes up to num_workers when they come. Each time all start anew,
    from the last checkpoint. 0: always num_workers."""
    max_restarts: int = 0
    """How often Ray starts failed workers anew, from the last checkpoint; -1: always."""
    device: Literal["cpu", "cuda"] = "cpu"
    backend: Literal["torch", "deepspeed"] = "torch"
    zero_stage: Literal[0, 1, 2, 3] = 2
    """What DeepSpeed shards: nothing (0), optimizer (1), and gradients (2), and weights (3)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    states: Literal["fp32", "bf16"] = "fp32"
    """Precision of DeepSpeed's weights, gradients and moments; bf16 halves memory, and accuracy."""
    offload_optimizer: bool = False
    """Keep DeepSpeed's optimizer state in host memory."""
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 1.0
    """GPUs that Ray sets aside for a worker on CUDA; a share lets several trials use one."""

    def __post_init__(self) -> None:
        _check_sizes("compute", self, "num_workers")
        fits = 0 <= self.min_workers <= self.num_workers
        check(fits, "compute.min_workers", self.min_workers, f"0..{self.num_workers}")
        check(self.max_restarts >= -1, "compute.max_restarts", self.max_restarts, "at least -1")
        fits = self.max_restarts != 0 or self.min_workers in (0, self.num_workers)
        expected = "1 or more, or -1, with fewer min_workers: each loss of workers is a restart"
        check(fits, "compute.max_restarts", 0, expected)
        got = self.gpus_per_worker
        fits = got == 1 or (0 < got < 1 and self.num_workers == 1)
        check(fits, "compute.gpus_per_worker", got, "1, or less for a run of one worker")
        fits = self.backend == "deepspeed" or not self.offload_optimizer
        check(fits, "compute.offload_optimizer", True, "compute.backend deepspeed with it")
        check(
            self.states == "fp32"
            or (self.backend == "deepspeed" and self.precision == "bf16" and self.zero_stage > 0),
            "compute.states",
            self.states,
            "compute.backend deepspeed, precision bf16 and a zero_stage above 0 with it",
        )

    @property
    def fewest_workers(self) -> int:
        """With how many workers a run begins at least."""
        return self.min_workers or self.num_workers


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """MLflow, beside the journal that every run keeps in its own folder."""

    mlflow: str = "sqlite"
    """Tracking server URL; `sqlite` keeps a data base beside the run folder, `off` logs nothing."""
    experiment: str = "mindeye-dist"
    every_steps: int = 10

    def __post_init__(self) -> None:
        _check_sizes("tracking", self, "every_steps")


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """One whole run."""

    run_dir: str = "runs/demo"
    """Folder of this run: checkpoints, journal, reports."""
    pipeline: Literal["highlevel", "lowlevel"] = "highlevel"
    """`highlevel`: voxels -> clip_tokens; `lowlevel`: voxels -> latents of a blurry picture."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    @property
    def target_sets(self) -> dict[str, str]:
        """Return the name of the set that each kind of target of the pipeline comes from."""
        if self.pipeline == "lowlevel":
            return {"latents": self.data.latents, "feature_map": self.data.teacher}
        return {"clip_tokens": self.data.targets}

    def __post_init__(self) -> None:
        check(
            self.compute.num_workers <= self.training.global_batch_size,
            "compute.num_workers",
            self.compute.num_workers,
            f"at most training.global_batch_size ({self.training.global_batch_size})",
        )
        check(
            self.optimizer.warmup_epochs <= self.training.epochs,
            "optimizer.warmup_epochs",
            self.optimizer.warmup_epochs,
            f"at most training.epochs ({self.training.epochs}); short runs want a shorter warm-up",
        )


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
        _check_shares("reconstruction", self, "strength")
        got = self.averaged_samples
        check(got >= 0, "reconstruction.averaged_samples", got, "0 or more")
        _check_sizes("reconstruction", self, "candidates", "batch_size")


def _check_sizes(section: str, values: object, *names: str) -> None:
    for name in names:
        check(getattr(values, name) >= 1, f"{section}.{name}", getattr(values, name), "at least 1")


def _check_shares(section: str, values: object, *names: str) -> None:
    for name in names:
        check(0 <= getattr(values, name) <= 1, f"{section}.{name}", getattr(values, name), "0..1")
