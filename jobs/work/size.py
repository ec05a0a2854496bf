"""Sizes of a run: parameters of each part, and memory on each GPU by ZeRO stage."""

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from jobs.options.size import Size
from mindeye_dist.errors import InputError
from mindeye_dist.models.mindeye import MindEye, PriorDraw
from mindeye_dist.simulation.nsd import NSD_VOXELS
from mindeye_dist.training import sizing
from mindeye_dist.training.sizing import AUTOCAST, BF16, GIB, Plan, Precision, Sizes, Stage

GPUS = (1, 2, 4, 8)


ROWS: tuple[tuple[Stage, bool], ...] = (
    (0, False),
    (1, False),
    (2, False),
    (3, False),
    (1, True),
    (2, True),
    (3, True),
)


def print_report(options: Size, console: Console) -> None:
    """Print parameters, activations and memory."""
    voxels = options.num_voxels or nsd_voxels(options.config.data.subject)
    shape = (voxels, options.num_tokens, options.dim)
    with torch.device("meta"):
        model = MindEye(options.config.model, *shape)
    sizes = sizing.measure(model)
    kept = kept_of_a_sample(model, *shape)
    console.print(f"{options.recipe}: {voxels} voxels -> {options.num_tokens} x {options.dim}")
    console.print(parameter_table(sizing.parts(model), sizes))
    console.print(
        f"activations of a sample: {kept:,} values, {kept * 4 / 2**20:.1f} MiB in float32"
    )
    for precision in (AUTOCAST, BF16):
        console.print(memory_table(options, sizes, kept, precision))
    console.print(
        "Each cell: weights + gradients + optimizer, then the peak (GiB), and the smallest card of "
        f"{', '.join(map(str, sizing.CARDS_GB))} GB that holds it. Host: GiB for each GPU."
    )


def nsd_voxels(subject: str) -> int:
    """Return the voxels of one of NSD's subjects.

    Raises:
        InputError: there is no such subject.
    """
    if subject not in NSD_VOXELS:
        known = ", ".join(NSD_VOXELS)
        raise InputError(f"data.subject: got {subject!r}, expected {known}, or --num-voxels")
    return NSD_VOXELS[subject]


def parameter_table(parts: dict[str, int], sizes: Sizes) -> Table:
    """Return the parameters of each part."""
    table = Table("part", "parameters", "share", box=SIMPLE)
    for name, count in parts.items():
        table.add_row(name, f"{count:,}", f"{count / sizes.parameters:.1%}")
    table.add_row("all", f"{sizes.parameters:,}", "")
    table.add_row("largest tensor", f"{sizes.largest:,}", f"{sizes.largest / sizes.parameters:.1%}")
    return table


def kept_of_a_sample(model: MindEye, num_voxels: int, num_tokens: int, dim: int) -> int:
    """Return the number of values that one sample's forward pass keeps, on the meta device."""
    with torch.device("meta"):
        voxels, clip_tokens = torch.empty(1, num_voxels), torch.empty(1, num_tokens, dim)
        no = torch.empty(1, dtype=torch.bool)
        timestep = torch.empty(1, dtype=torch.long)
        draw = PriorDraw(timestep=timestep, noise=clip_tokens, drop_condition=no, drop_tokens=no)
        return sizing.kept_values(model, lambda: model(voxels, clip_tokens, draw))


def memory_table(options: Size, sizes: Sizes, kept: int, precision: Precision) -> Table:
    """Return GiB per GPU for each ZeRO stage and number of GPUs."""
    batch = options.config.training.global_batch_size
    table = Table(f"{precision.name}; global batch {batch}", box=SIMPLE)
    for gpus in GPUS:
        table.add_column(f"{gpus} GPU{'s' * (gpus > 1)}, {samples_per_gpu(options, gpus)} each")
    # bf16 states need a stage that shards them; with offload they are not offered.
    rows = ROWS if precision is AUTOCAST else [row for row in ROWS if row[0] and not row[1]]
    for stage, offload in rows:
        plans = [
            Plan(stage=stage, gpus=gpus, precision=precision, offload=offload) for gpus in GPUS
        ]
        name = f"ZeRO {stage}" + (", optimizer offloaded" if offload else "")
        table.add_row(name, *(memory_cell(options, sizes, kept, plan) for plan in plans))
    return table


def samples_per_gpu(options: Size, gpus: int) -> int:
    """Return the samples that a GPU holds at once."""
    training = options.config.training
    return min(-(-training.global_batch_size // gpus), training.max_micro_batch_size)


def memory_cell(options: Size, sizes: Sizes, kept: int, plan: Plan) -> str:
    """Return one plan's figures."""
    batch = options.config.training.global_batch_size
    # The loss gathers predictions and targets of the whole batch, and normalises both.
    gathered = 4 * batch * options.num_tokens * options.dim
    samples = samples_per_gpu(options, plan.gpus)
    activations = (kept * samples + gathered) * plan.precision.activation
    state = sizing.state(sizes, plan)
    peak = sizing.peak(sizes, plan, activations)
    card = sizing.smallest_card(peak)
    text = f"{state.gpu / GIB:.1f}, {peak / GIB:.1f}: {f'{card} GB' if card else 'none'}"
    return f"{text}\nhost {state.host / GIB:.1f}" if plan.offload else text


def run(options: Size) -> None:
    """Print the tables."""
    if options.config.pipeline != "highlevel":
        raise InputError(f"--recipe {options.recipe}: sizes are those of the high-level pipeline")
    print_report(options, Console())
