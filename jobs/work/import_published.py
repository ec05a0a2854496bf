"""Import weights that Scotti et al. released (257x768, 1x768 or autoencoder) as a checkpoint.

In: a published `.pth` with exactly the published keys and shapes. Out: a checkpoint that
`Predictor` and `jobs/evaluate.py` read, and lines that account for each tensor of the file.
"""

from dataclasses import replace
from pathlib import Path

from jobs.command import absolute_path
from jobs.options.import_published import ImportPublished
from jobs.recipes import mindeye1, mindeye1_lowlevel
from mindeye_dist.config import ExperimentConfig
from mindeye_dist.data.manifest import Subject, read_manifest
from mindeye_dist.errors import CheckpointError, InputError
from mindeye_dist.ingest.mindeye1_weights import Imported, import_published, write_checkpoint
from mindeye_dist.runs.checkpoints import checkpoint_files
from mindeye_dist.shapes import Shapes, TargetShape
from mindeye_dist.simulation.nsd import NSD_VOXELS
from mindeye_dist.storage.store import Store
from mindeye_dist.strict import override


def find_subject(options: ImportPublished) -> Subject | None:
    """Return the manifest's subject, or None if --voxels-of names a subject of NSD.

    Raises:
        InputError: neither or both are given, or NSD has no such subject.
    """
    if bool(options.data_url) == bool(options.voxels_of):
        raise InputError(
            f"--data-url: got {options.data_url!r} and --voxels-of {options.voxels_of!r}, expected "
            "exactly one of them"
        )
    if options.data_url:
        return read_manifest(Store(absolute_path(options.data_url))).subject(options.subject)
    if options.voxels_of not in NSD_VOXELS:
        raise InputError(f"--voxels-of: got {options.voxels_of!r}, expected {sorted(NSD_VOXELS)}")
    return None


def published_config(options: ImportPublished, imported: Imported) -> ExperimentConfig:
    """Return the published recipe with the file's sizes."""
    name = options.voxels_of or options.subject
    config = (mindeye1_lowlevel if imported.kind == "autoencoder" else mindeye1)(name)
    changes: dict[str, object] = {"run_dir": absolute_path(options.out)}
    if options.data_url:
        changes["data.url"] = absolute_path(options.data_url)
    if imported.kind == "1x768":
        changes |= {
            "data.targets": "clip-vit-l-14-final",  # that run had no augmented variants
            "loss.prior_weight": 0.03,
            "training.epochs": 300,
        }
    for path in ("targets", "latents"):
        if given := getattr(options, path):
            changes[f"data.{path}"] = given
    return override(replace(config, model=imported.sizes.model), changes)


def published_shapes(
    options: ImportPublished, imported: Imported, config: ExperimentConfig, subject: Subject | None
) -> Shapes:
    """Return the shapes of the model's data; digests of targets that are not at hand are empty.

    Raises:
        CheckpointError: the manifest's targets have another shape than the weights'.
        DataError: targets named on the command line are not in the manifest.
    """
    targets = {}
    named = {options.targets, options.latents}
    for kind, name in config.target_sets.items():
        shape, encoder, digest = imported.sizes.targets[kind], name, ""
        if subject and (name in subject.targets or name in named):
            found = subject.target_set(kind, name)
            encoder, digest = found.encoder, found.digest
            if found.shape != shape:
                raise CheckpointError(
                    f"{options.file}: predicts {kind} of shape {shape}, {name} has {found.shape}"
                )
        targets[kind] = TargetShape(shape=shape, encoder=encoder, digest=digest)
    return Shapes(num_voxels=imported.num_voxels, targets=targets)


def summary_lines(file: Path, imported: Imported, shapes: Shapes) -> list[str]:
    """Return lines that account for each tensor in the file."""
    count = sum(weight.numel() for weight in imported.weights.values())
    lines = [
        f"{file.name}: {imported.kind}, {imported.num_voxels} voxels, "
        f"{len(imported.weights)} tensors of {count:,} parameters"
    ]
    if imported.compared:
        lines.append(f"equal to ours, not stored: {', '.join(imported.compared)}")
    if imported.left_out:
        lines.append(f"not read: {', '.join(imported.left_out)}")
    unknown = [f"{kind} by {t.encoder}" for kind, t in shapes.targets.items() if not t.digest]
    if unknown:
        lines.append(f"digest unknown, so predicted but not evaluated: {', '.join(unknown)}")
    return lines


def run(options: ImportPublished) -> None:
    """Import the file and print how each part of it was used."""
    subject = find_subject(options)
    num_voxels = subject.num_voxels if subject else NSD_VOXELS[options.voxels_of]
    imported = import_published(options.file, num_voxels, any_size=options.any_size)
    config = published_config(options, imported)
    shapes = published_shapes(options, imported, config, subject)
    source = {"file": options.file.name, "kind": imported.kind}
    folder = Path(absolute_path(options.out))
    write_checkpoint(folder, imported, {**checkpoint_files(config, shapes), "source.json": source})
    print("\n".join(summary_lines(options.file, imported, shapes)))
    print(folder)
