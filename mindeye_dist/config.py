"""Settings of a run: frozen dataclasses, composed in `ExperimentConfig`.

The dotted path of a setting (`optimizer.max_lr`) is also its command-line flag and its name in a
search space. Facts of the data (number of voxels and tokens, width of a token) are not settings:
they come from the manifest. Names follow MindEye (Scotti et al. 2023); defaults are the published
values unless the text says otherwise. `strict.py` reads and changes settings.
"""

from dataclasses import dataclass, field
from typing import Literal

from mindeye_dist.model_config import ModelConfig
from mindeye_dist.strict import check, check_counts, check_fractions


@dataclass(frozen=True, kw_only=True)
class ComputedConfig:
    """clip_tokens computed from the pictures while training, instead of read from a stored set.

    Saves a run of jobs/embed.py; costs an encoder on every worker, and its time in every step.
    """

    encoder: str = ""
    """Frozen encoder by name (see `jobs/embed.py --help`); empty reads the stored set."""
    weights: str = ""
    """File or folder of the encoder's weights, or its name on a hub."""
    final: bool = False
    """Use the final, projected embedding (1 x 768) of CLIP instead of all tokens."""
    antialias: bool = False
    """Resize pictures with antialiasing, unlike the published preprocessing."""
    variants: int = 0
    """Number of augmented variants of each picture."""
    augmentation: Literal["release", "development"] = "release"
    """Augmentation of the published release, or of the development script behind its weights."""
    seed: int = 0
    """Seed of the augmented variants."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The shards, and how they are read."""

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
    """Train on the augmented variants of targets, if the set has any; validation never does."""
    train_on: Literal["train", "train+val"] = "train"
    """Splits to train on. `train+val` is for a final run: the last checkpoint then counts as the
    best, since val cannot select one."""
    repeat_draw: Literal["cycle", "random", "mean", "random_combine"] = "random_combine"
    """Way to make one training response of a picture's repeats: each in turn, one at random, their
    mean, or the published mixture of these. Evaluation averages them."""
    computed: ComputedConfig = field(default_factory=ComputedConfig)
    cache_gib: float = 4.0
    """Memory of each worker for a split's samples from S3 and for computed targets (GiB). Samples
    in a folder are read anew each time: the operating system caches them."""
    prefetch_batches: int = 8
    """Batches read ahead of the training step."""
    disk_cache: str = ""
    """Local folder that caches members read from S3; empty for none."""
    disk_cache_gib: float = 50.0
    """Size limit of the disk cache (GiB); the least recently used members are deleted first."""
    on_bad_sample: Literal["raise", "skip"] = "raise"
    """Reaction of training to a sample that is missing, damaged or not finite: `skip` puts another
    sample in its place, logs and counts it. Validation always raises."""
    max_bad_samples: int = 10
    """Maximum number of bad samples under `skip`; one more stops the run and lists them."""

    def __post_init__(self) -> None:
        got = self.max_bad_samples
        check(got >= 0, "data.max_bad_samples", got, "0 or more")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """BiMixCo first, SoftCLIP after, the prior's loss throughout (MindEye, section 3.3)."""

    mixco_fraction: float = 0.33
    """Share of the epochs that use BiMixCo, the first ones (0..1)."""
    mix_alpha: float = 0.15
    """Parameter of the distribution of mix_coef, Beta(mix_alpha, mix_alpha)."""
    mix_probability: float = 0.5
    """Probability that a sample is mixed (0..1)."""
    mixco_temperature: float = 0.006
    """Temperature of BiMixCo, constant."""
    soft_temperature_start: float = 0.004
    """Temperature of SoftCLIP in its first epoch."""
    soft_temperature_end: float = 0.0075
    """Temperature of SoftCLIP in the last epoch, reached along half a cosine."""
    contrastive_weight: float = 1.0
    """Weight of the contrastive loss."""
    prior_weight: float = 30.0
    """Weight of the prior's mean squared error."""
    mix_prior_target: bool = True
    """Mix the prior's target like its condition; the released trainer leaves the target unmixed."""
    latent_weight: float = 1 / 0.18215
    """Low level: weight of the latents' absolute error, one over the published VAE's scale."""
    map_weight: float = 0.1
    """Low level: weight of the soft contrastive loss against the teacher's feature map."""
    map_temperature: float = 0.075
    """Low level: temperature of the soft contrastive loss."""

    def __post_init__(self) -> None:
        check_fractions("loss", self, "mixco_fraction", "mix_probability")
        for name in ("mix_alpha", *(n for n in vars(self) if "temperature" in n)):
            check(getattr(self, name) > 0, f"loss.{name}", getattr(self, name), "a value above 0")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with the OneCycle schedule, momentum cycling included."""

    max_lr: float = 3e-4
    """Learning rate at the end of the warm-up, the highest one."""
    warmup_epochs: float = 2.0
    """Length of the warm-up (epochs)."""
    start_factor: float = 25.0
    """Ratio of max_lr to the first learning rate."""
    final_factor: float = 1000.0
    """Ratio of the first learning rate to the last."""
    momentum_high: float = 0.95
    """Decay rate of the first moment at the start and the end."""
    momentum_low: float = 0.85
    """Decay rate of the first moment at the highest learning rate."""
    second_moment_decay: float = 0.999
    """Decay rate of the second moment."""
    eps: float = 1e-8
    """Epsilon of AdamW."""
    weight_decay: float = 0.01
    """Weight decay of matrices; biases and gains of norms have none."""
    clip_norm: float = 0.0
    """Maximum norm of the gradient; 0 does not clip, as published."""

    def __post_init__(self) -> None:
        check(self.max_lr > 0, "optimizer.max_lr", self.max_lr, "a value above 0")
        check(self.clip_norm >= 0, "optimizer.clip_norm", self.clip_norm, "at least 0")
        check(self.warmup_epochs >= 0, "optimizer.warmup_epochs", self.warmup_epochs, "at least 0")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Length and batches, independent of the number of workers."""

    seed: int = 42
    """Seed of order, random draws, dropout and initial weights."""
    epochs: int = 240
    """Length of the training (epochs)."""
    global_batch_size: int = 32
    """Samples of one optimizer step over all workers; all of them are negatives of each other."""
    max_micro_batch_size: int = 4096
    """Maximum number of samples on one device at once; more are accumulated, with the same
    negatives."""
    validate_every_epochs: int = 5
    """Epochs between validations."""
    on_non_finite: Literal["stop", "skip"] = "stop"
    """Reaction to a loss or gradient that is not finite: `skip` leaves weights and moments as they
    were, logs the batch, and goes on with the next."""
    max_non_finite: int = 5
    """Maximum number of batches that `skip` leaves out; one more stops the run."""
    check_ranks_every: int = 50
    """Steps between comparisons of the weights that all workers hold, to the bit."""

    def __post_init__(self) -> None:
        check_counts("training", self, "epochs", "global_batch_size")
        check_counts("training", self, "max_micro_batch_size", "validate_every_epochs")
        check_counts("training", self, "check_ranks_every")
        check(self.max_non_finite >= 0, "training.max_non_finite", self.max_non_finite, "0 or more")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Writing and keeping of checkpoints."""

    every_steps: int = 500
    """Steps between checkpoints; improved validations are saved as well."""
    keep: int = 2
    """Number of newest checkpoints to keep besides the best one."""
    in_background: bool = True
    """Write checkpoints while training goes on; needs memory for a copy of weights and moments."""
    copy_to: str = ""
    """Folder or s3:// prefix for copies of this run's checkpoints, which --resume finds."""

    def __post_init__(self) -> None:
        check_counts("checkpoint", self, "every_steps", "keep")


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """Machines, and the model's spread over them; only precision and states change results."""

    num_workers: int = 1
    """Number of workers, one process each; results do not depend on it."""
    min_workers: int = 0
    """Minimum number of Ray workers to start, or to continue with after nodes are lost (needs
    max_restarts). The run grows back to num_workers; each change restarts all workers from the last
    checkpoint. 0 means num_workers."""
    max_restarts: int = 0
    """Maximum number of restarts by Ray after failures, from the last checkpoint; -1: no limit."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Device that computes."""
    backend: Literal["torch", "deepspeed"] = "torch"
    """Library that holds model and optimizer: torch (DDP), or DeepSpeed (ZeRO)."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """State that DeepSpeed shards: none (0), optimizer (1), also gradients (2), also weights
    (3)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the computation; weights stay fp32 unless `states` says otherwise."""
    states: Literal["fp32", "bf16"] = "fp32"
    """Precision of DeepSpeed's weights, gradients and moments; bf16 halves memory, less
    accurately."""
    offload_optimizer: bool = False
    """Keep DeepSpeed's optimizer state in host memory."""
    cpus_per_worker: float = 1.0
    """CPUs that Ray reserves for a worker."""
    gpus_per_worker: float = 1.0
    """GPUs that Ray reserves for a worker on CUDA; a fraction lets several trials share a GPU."""

    def __post_init__(self) -> None:
        check_counts("compute", self, "num_workers")
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
        """Minimum number of workers of the run."""
        return self.min_workers or self.num_workers


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """MLflow, beside the journal that every run keeps in its own folder."""

    mlflow: str = "sqlite"
    """URL of the tracking server; `sqlite` for a database beside the run folder, `off` for none."""
    experiment: str = "mindeye-dist"
    """Name of the experiment in MLflow."""
    every_steps: int = 10
    """Steps between rows of metrics."""

    def __post_init__(self) -> None:
        check_counts("tracking", self, "every_steps")


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


def mixco_epochs(mixco_fraction: float, epochs: int) -> int:
    """Return the number of epochs, the first ones, that use BiMixCo; the others use SoftCLIP."""
    return int(mixco_fraction * epochs)
