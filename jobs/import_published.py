"""Import published weights: `python jobs/import_published.py last.pth --data-url data/nsd --out F`.

Takes a `.pth` that Scotti et al. released (257x768, 1x768 or autoencoder) and writes a checkpoint
that `Predictor` and `jobs/evaluate.py --checkpoint F` read. The file must hold exactly the
published keys and shapes for the subject. What is read of it is printed, and what is not.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jobs.command import clear_errors, place
from mindeye_dist.checkpoint import CheckpointError, Shapes, describe
from mindeye_dist.config import DataConfig, ExperimentConfig
from mindeye_dist.data.shards import Subject, read_manifest
from mindeye_dist.data.simulate import NSD_VOXELS
from mindeye_dist.data.store import Store
from mindeye_dist.published_import import Imported, import_published, write_checkpoint

PUBLISHED_TARGETS = {"257x768": "clip-vit-l-14", "1x768": "clip-vit-l-14-final"}
"""Sets of clip_tokens, by their names in a manifest, that published weights predict."""


@dataclass(frozen=True, kw_only=True)
class ImportPublished:
    """Turn a published file into a checkpoint."""

    file: Annotated[Path, tyro.conf.Positional]
    """The `.pth`."""
    out: str
    """Folder of the checkpoint; must not exist."""
    data_url: str = ""
    """Shards of the subject: they tell its voxels, and which targets the weights are for."""
    subject: str = "subj01"
    """Name in the manifest at --data-url."""
    targets: str = ""
    """Name of the clip_tokens set in the manifest; by default the one published for the kind."""
    voxels_of: str = ""
    """NSD subject whose voxel count to expect, without --data-url; the checkpoint then does not
    know the digest of its targets, so it predicts but is not evaluated."""
    any_size: bool = False
    """For weights that the published code made at other sizes: take them from the file."""


def main(arguments: list[str]) -> None:
    """Parse the command line, import the file and say what became of each part of it."""
    with clear_errors():
        options = tyro.cli(ImportPublished, args=arguments, description=__doc__)
        subject = find_subject(options)
        num_voxels = subject.num_voxels if subject else NSD_VOXELS[options.voxels_of]
        imported = import_published(options.file, num_voxels, any_size=options.any_size)
        folder = Path(place(options.out))
        write_checkpoint(folder, imported, about(options, imported, subject))
        print("\n".join(summary(options.file, imported)))
        print(folder)


def find_subject(options: ImportPublished) -> Subject | None:
    """Return the manifest's subject, None where an NSD subject is named instead.

    Raises:
        ValueError: neither or both are given, or there is no such NSD subject.
    """
    if bool(options.data_url) == bool(options.voxels_of):
        raise ValueError("expected one of --data-url and --voxels-of")
    if options.data_url:
        return read_manifest(Store(place(options.data_url))).subject(options.subject)
    if options.voxels_of not in NSD_VOXELS:
        raise ValueError(f"--voxels-of: got {options.voxels_of!r}, expected {sorted(NSD_VOXELS)}")
    return None


def about(
    options: ImportPublished, imported: Imported, subject: Subject | None
) -> dict[str, dict[str, object]]:
    """Return the files that make the checkpoint self-contained.

    Raises:
        CheckpointError: the manifest's targets have another shape than the weights'.
    """
    config = ExperimentConfig(
        run_dir=place(options.out),
        data=DataConfig(
            url=place(options.data_url) if options.data_url else "",
            subject=options.subject if subject else options.voxels_of,
            targets=target_set(options, imported),
        ),
        model=imported.sizes.model,
    )
    source = {
        "file": options.file.name,
        "kind": imported.kind,
        "compared": list(imported.compared),
        "left_out": list(imported.left_out),
    }
    return {**describe(config, shapes(options, imported, subject)), "source.json": source}


def target_set(options: ImportPublished, imported: Imported) -> str:
    """Return the name of the clip_tokens set that the weights predict.

    Raises:
        CheckpointError: the weights predict none.
    """
    if imported.kind not in PUBLISHED_TARGETS:
        raise CheckpointError(f"{options.file}: {imported.kind}: expected weights for clip_tokens")
    return options.targets or PUBLISHED_TARGETS[imported.kind]


def shapes(options: ImportPublished, imported: Imported, subject: Subject | None) -> Shapes:
    """Return what the model must know of its data.

    Raises:
        CheckpointError: the manifest's targets have another shape than the weights'.
    """
    encoder, digest = target_set(options, imported), ""
    expected = imported.sizes.targets["clip_tokens"]
    if subject:
        targets = subject.clip_targets(encoder)
        if (targets.num_tokens, targets.dim) != expected:
            raise CheckpointError(
                f"{options.file}: predicts clip_tokens of shape {expected}, "
                f"{encoder} has {(targets.num_tokens, targets.dim)}"
            )
        encoder, digest = targets.encoder, targets.digest
    return Shapes(
        num_voxels=imported.num_voxels,
        num_tokens=expected[0],
        dim=expected[1],
        encoder=encoder,
        encoder_digest=digest,
    )


def summary(file: Path, imported: Imported) -> list[str]:
    """Return lines that account for everything in the file."""
    count = sum(weight.numel() for weight in imported.weights.values())
    lines = [
        f"{file.name}: {imported.kind}, {imported.num_voxels} voxels, "
        f"{len(imported.weights)} tensors of {count:,} parameters"
    ]
    if imported.compared:
        lines.append(f"equal to ours, not stored: {', '.join(imported.compared)}")
    if imported.left_out:
        lines.append(f"not read: {', '.join(imported.left_out)}")
    return lines


if __name__ == "__main__":
    main(sys.argv[1:])
