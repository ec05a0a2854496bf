"""Simulate subjects: pictures -> targets -> brains -> shards, manifest, targets and the truth.

`python jobs/simulate.py` makes the demo's subject from the project's own rendered scenes;
`--images` takes a folder or tar of pictures instead, `--preset nsd-subj01` the size and noise of a
subject of NSD. No brain is harmed: the voxels are simulated, and the manifest says so.
"""

import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import tyro

from jobs.command import clear_errors, place, watched
from mindeye_dist.config import DataConfig
from mindeye_dist.data.manifest import (
    FORMAT,
    MANIFEST,
    Manifest,
    Shard,
    Subject,
    Targets,
    write_manifest,
)
from mindeye_dist.data.shards import ABOUT_PICTURES, checksum
from mindeye_dist.data.writer import write_shards
from mindeye_dist.frozen.codecs import PixelCodec
from mindeye_dist.frozen.efficientnet import EfficientNetLite0, efficientnet_lite0_weights
from mindeye_dist.frozen.encoders import EncoderMap
from mindeye_dist.frozen.projection import (
    ENCODER_FILE,
    SCENES_ENCODER,
    ProjectedEncoder,
    fit_projection,
    project,
)
from mindeye_dist.pictures import PictureFiles, decode, encode_jpeg, small, square_jpeg
from mindeye_dist.randomness import numpy_generator
from mindeye_dist.shapes import Kind
from mindeye_dist.simulation.brain import SimulatedSubject, make_subject
from mindeye_dist.simulation.config import SimulationConfig
from mindeye_dist.simulation.nsd import nsd_preset
from mindeye_dist.simulation.scenes import GENERATOR_SERIES, render_scene
from mindeye_dist.simulation.tuning import fit_feature_space
from mindeye_dist.storage import npy
from mindeye_dist.storage.store import DataError, Store
from mindeye_dist.strict import check

LICENCE = (
    "Simulated brains: no human data. Pictures under their own licence; rendered scenes are MIT."
)
# The names that the demo's recipes look for.
TOKENS, TEACHER, LATENTS = DataConfig.targets, DataConfig.teacher, DataConfig.latents
COMPONENTS = 64
"""Principal components that are kept of other pictures' channels."""
ENCODED_AT_ONCE = 8
"""Few enough for a CPU's cache: 32 at once take 1.7 times as long a picture."""


@dataclass(frozen=True, kw_only=True)
class Simulate:
    """Simulate subjects that see pictures, and write their shards."""

    out: str = "data/demo"
    """Folder or s3:// prefix to write to."""
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
    overwrite: bool = False
    """Write even where there is a manifest already."""
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


@dataclass(frozen=True)
class Picture:
    """A stored picture and what is known about it."""

    jpeg: bytes
    about: dict[str, object]


@dataclass(frozen=True)
class TargetSet:
    """What is to be predicted of every picture, by one frozen model."""

    name: str
    kind: Kind
    encoder: str
    digest: str
    arrays: np.ndarray


def simulate(options: Simulate) -> Manifest:
    """Simulate and write everything, the manifest last.

    Raises:
        DataError: there is a manifest already, or too few or unreadable pictures.
    """
    store = Store(options.out)
    configs = simulation_configs(options)
    if not options.overwrite and store.exists(MANIFEST):
        raise DataError(f"{store.locate(MANIFEST)}: is there already; --overwrite replaces it")
    store.delete(MANIFEST)  # shards that are half replaced must not pass for whole
    pictures = list(load_pictures(options))
    sets, encoder = encode(pictures, options)
    clip_tokens = sets[0].arrays
    small_pictures = np.stack(
        [small(decode(p.jpeg, f"picture {i}")) for i, p in enumerate(pictures)]
    )
    space = fit_feature_space(
        clip_tokens[: options.train_pictures],
        small_pictures[: options.train_pictures],
        num_semantic=configs[0].num_components,
        num_lowlevel=configs[0].num_lowlevel,
    )
    features = space(clip_tokens, small_pictures)
    write_about(store, pictures, options)
    write_file(store, ENCODER_FILE, encoder.save)
    subjects = {}
    for config in configs:
        brain = make_subject(config, space)
        subjects[config.subject] = write_subject(store, options, brain, pictures, features, sets)
    manifest = Manifest(format=FORMAT, licence=LICENCE, subjects=subjects)
    write_manifest(store, manifest)
    return manifest


def load_pictures(options: Simulate) -> Iterator[Picture]:
    """Yield the pictures of all splits: rendered scenes, or files in a seeded shuffle.

    Raises:
        DataError: there are fewer files than asked for, or one cannot be read as a picture.
    """
    total = sum(options.counts.values())
    if not options.images:
        for index in watched(range(total), "rendering scenes"):
            scene = render_scene(index, options.seed, options.side)
            about = {"source": f"scene {options.seed}/{index}", "caption": scene.caption}
            yield Picture(encode_jpeg(scene.picture), about | {"factors": scene.factors})
        return
    with PictureFiles(Path(options.images)) as files:
        order = numpy_generator(options.seed, "splits").permutation(len(files.names)).tolist()
        seen: set[str] = set()
        for number in watched(order, "reading pictures"):
            if len(seen) == total:
                return
            name = files.names[number]
            data = files.read(name)
            if checksum(data) not in seen:  # the same file in two splits would leak
                seen.add(checksum(data))
                where = f"{options.images}: {name}"
                yield Picture(square_jpeg(data, options.side, where), {"source": name})
    if len(seen) < total:
        raise DataError(
            f"{options.images}: has {len(seen)} different pictures, expected at least {total}"
        )


def encode(
    pictures: Sequence[Picture], options: Simulate
) -> tuple[list[TargetSet], ProjectedEncoder]:
    """Return clip_tokens, the teacher's map and latents, and the encoder.

    The encoder's components are fitted on the train pictures, or fixed (`Simulate.dim`). Its map,
    without the summary token, is the low-level pipeline's teacher, small pictures are its latents.
    """
    base, codec = EfficientNetLite0(efficientnet_lite0_weights()), PixelCodec(options.latent_side)
    raw = np.empty((len(pictures), base.num_tokens, base.dim), np.float16)
    latents = np.empty((len(pictures), *codec.shape), np.float16)
    for start in watched(range(0, len(pictures), ENCODED_AT_ONCE), "encoding pictures, chunk"):
        chunk = pictures[start : start + ENCODED_AT_ONCE]
        rgb = np.stack([decode(p.jpeg, f"picture {start + i}") for i, p in enumerate(chunk)])
        images = torch.from_numpy(rgb).permute(0, 3, 1, 2).float() / 255
        raw[start : start + len(chunk)] = base(images).numpy()
        latents[start : start + len(chunk)] = codec.encode(images).numpy()
    batches = [torch.from_numpy(part) for part in np.array_split(raw, -(-len(raw) // 256))]
    train = torch.from_numpy(raw[: options.train_pictures]).split(256)
    if options.images or options.preset or options.dim:
        projection = fit_projection((part.float() for part in train), options.dim or COMPONENTS)
        encoder = ProjectedEncoder(base, projection)
    else:
        encoder = ProjectedEncoder.load(SCENES_ENCODER, base)
    tokens = np.concatenate([project(b.float(), encoder.projection).numpy() for b in batches])
    teacher = EncoderMap(encoder)
    return [
        TargetSet(TOKENS, "clip_tokens", encoder.name, encoder.digest, tokens),
        TargetSet(TEACHER, "feature_map", teacher.name, teacher.digest, tokens[:, 1:]),
        TargetSet(LATENTS, "latents", codec.name, codec.digest, latents),
    ], encoder


def simulation_configs(options: Simulate) -> list[SimulationConfig]:
    """Return the settings of every subject: the preset's, or those of the flags.

    Raises:
        ValueError: there is no such preset, or both it and flags are given.
    """
    if not options.preset:
        return [replace(options.simulation, subject=name) for name in options.subjects]
    if options.simulation != SimulationConfig():
        raise ValueError(
            f"--preset {options.preset}: got --simulation flags too, expected one of both"
        )
    return [nsd_preset(options.preset.removeprefix("nsd-"))]


def write_subject(
    store: Store,
    options: Simulate,
    brain: SimulatedSubject,
    pictures: Sequence[Picture],
    features: np.ndarray,
    sets: Sequence[TargetSet],
) -> Subject:
    """Show the pictures to a brain, write what it answers, and return its manifest entry."""
    name = brain.config.subject
    print(f"{name}: {len(pictures)} pictures x {brain.config.num_repeats} repeats", file=sys.stderr)
    responses = brain.respond(range(len(pictures)), features)
    splits, first = {}, 0
    targets: dict[str, dict[str, tuple[Shard, ...]]] = {target.name: {} for target in sets}
    for split, count in options.counts.items():
        numbers = range(first, first + count)
        keys = [f"sample{number:09d}" for number in numbers]
        members = (
            {
                "jpg": pictures[n].jpeg,
                "nsdgeneral.npy": npy.encode(responses.voxels[n]),
                "coco73k.npy": npy.encode(np.array(n)),
                "num_uniques.npy": npy.encode(np.array(brain.config.num_repeats)),
                "trial.npy": npy.encode(responses.trials[n]),
            }
            for n in numbers
        )
        splits[split] = write_shards(
            store, f"{split}/{split}_{name}", zip(keys, members, strict=True)
        )
        for target in sets:
            arrays = target.arrays[first : first + count].astype(np.float16)
            files = ({f"{target.kind}.npy": npy.encode(array)} for array in arrays)
            stem = f"targets/{target.name}-{target.digest[:12]}/{split}/{split}_{name}"
            targets[target.name][split] = write_shards(store, stem, zip(keys, files, strict=True))
        first += count
    truth = f"truth/{name}.safetensors"
    truth_sha256 = write_file(store, truth, brain.save)
    return Subject(
        num_voxels=brain.config.num_voxels,
        num_repeats=brain.config.num_repeats,
        rois={roi: tuple(voxels.tolist()) for roi, voxels in brain.rois.items()},
        ncsnr=tuple(float(value) for value in brain.ncsnr),
        truth=truth,
        truth_sha256=truth_sha256,
        splits=splits,
        targets={
            target.name: Targets(
                kind=target.kind,
                encoder=target.encoder,
                digest=target.digest,
                shape=target.arrays.shape[1:],
                variants=0,
                splits=targets[target.name],
            )
            for target in sets
        },
    )


def write_about(store: Store, pictures: Sequence[Picture], options: Simulate) -> None:
    """Write what is known of every picture (source, caption, true factors), a JSON line each."""
    names = [split for split, count in options.counts.items() for _ in range(count)]
    rows = [
        {"key": f"sample{n:09d}", "split": split, **picture.about}
        for n, (split, picture) in enumerate(zip(names, pictures, strict=True))
    ]
    store.write(ABOUT_PICTURES, "".join(json.dumps(row) + "\n" for row in rows).encode())


def write_file(store: Store, path: str, save: Callable[[Path], None]) -> str:
    """Write to a store what can only save itself to a local file, and return its sha256."""
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / Path(path).name
        save(local)
        data = local.read_bytes()
    store.write(path, data)
    return hashlib.sha256(data).hexdigest()


def main(arguments: list[str]) -> None:
    """Parse the command line and simulate."""
    with clear_errors():
        options = tyro.cli(Simulate, args=arguments, description=__doc__)
        simulate(replace(options, out=place(options.out)))
        print(f"wrote {place(options.out)}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
