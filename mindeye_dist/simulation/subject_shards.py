"""Simulated subjects as shards: pictures -> targets -> brains -> shards, manifest and the truth.

In: rendered scenes, or a folder or tar of pictures. Out, in one store: a manifest, shards in the
published layout, sets of targets, the encoder's projection, and the truth of every brain.
"""

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

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
from mindeye_dist.errors import DataError, InputError
from mindeye_dist.frozen.codecs import PixelCodec
from mindeye_dist.frozen.efficientnet import EfficientNetLite0, efficientnet_lite0_weights
from mindeye_dist.frozen.encoders import ENCODED_AT_ONCE, EncoderMap
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
from mindeye_dist.simulation.config import SimulatedDataset, SimulationConfig
from mindeye_dist.simulation.nsd import nsd_preset
from mindeye_dist.simulation.scenes import render_scene
from mindeye_dist.simulation.tuning import fit_feature_space
from mindeye_dist.storage import npy
from mindeye_dist.storage.store import Store

log = logging.getLogger(__name__)
Watch = Callable[[Iterable[Any], str], Iterable[Any]]
"""Passes items on and may show progress; the text names the work."""

LICENCE = (
    "Simulated brains: no human data. Pictures under their own licence; rendered scenes are MIT."
)
# The names that the demo's recipes look for.
TOKENS, TEACHER, LATENTS = DataConfig.targets, DataConfig.teacher, DataConfig.latents
COMPONENTS = 64
"""Number of principal components kept of the encoder's channels, for pictures of files."""


@dataclass(frozen=True)
class Picture:
    """A stored picture, and its source, caption and factors."""

    jpeg: bytes
    about: dict[str, object]


@dataclass(frozen=True)
class TargetSet:
    """Targets of every picture by one frozen model."""

    name: str
    kind: Kind
    encoder: str
    digest: str
    arrays: np.ndarray


def unwatched(items: Iterable[Any], _: str) -> Iterable[Any]:
    """Return the items unchanged, without showing progress."""
    return items


def write_subjects(
    store: Store,
    settings: SimulatedDataset,
    *,
    overwrite: bool = False,
    watch: Watch = unwatched,
) -> Manifest:
    """Simulate all subjects and write them, the manifest last.

    Args:
        store: the place to write to.
        settings: pictures, targets and brains.
        overwrite: replace a data set that is there.
        watch: shows the progress of each part of the work.

    Raises:
        DataError: there is a manifest already, or too few or unreadable pictures.
    """
    configs = simulation_configs(settings)
    if not overwrite and store.exists(MANIFEST):
        raise DataError(f"{store.locate(MANIFEST)}: is there already; --overwrite replaces it")
    store.delete(MANIFEST)  # shards that are half replaced must not pass for whole
    pictures = list(load_pictures(settings, watch))
    sets, encoder = encode(pictures, settings, watch)
    clip_tokens = sets[0].arrays
    small_pictures = np.stack(
        [small(decode(p.jpeg, f"picture {i}")) for i, p in enumerate(pictures)]
    )
    space = fit_feature_space(
        clip_tokens[: settings.train_pictures],
        small_pictures[: settings.train_pictures],
        num_semantic=configs[0].num_components,
        num_lowlevel=configs[0].num_lowlevel,
    )
    features = space(clip_tokens, small_pictures)
    write_about(store, pictures, settings)
    write_file(store, ENCODER_FILE, encoder.save)
    subjects = {}
    for config in configs:
        brain = make_subject(config, space)
        subjects[config.subject] = write_subject(store, settings, brain, pictures, features, sets)
    manifest = Manifest(format=FORMAT, licence=LICENCE, subjects=subjects)
    write_manifest(store, manifest)
    return manifest


def load_pictures(settings: SimulatedDataset, watch: Watch = unwatched) -> Iterator[Picture]:
    """Yield the pictures of all splits: rendered scenes, or files in a seeded shuffle.

    Raises:
        DataError: there are fewer files than asked for, or one cannot be read as a picture.
    """
    total = sum(settings.counts.values())
    if not settings.images:
        for index in watch(range(total), "rendering scenes"):
            scene = render_scene(index, settings.seed, settings.side)
            about = {"source": f"scene {settings.seed}/{index}", "caption": scene.caption}
            yield Picture(encode_jpeg(scene.picture), about | {"factors": scene.factors})
        return
    with PictureFiles(Path(settings.images)) as files:
        order = numpy_generator(settings.seed, "splits").permutation(len(files.names)).tolist()
        seen: set[str] = set()
        for number in watch(order, "reading pictures"):
            if len(seen) == total:
                return
            name = files.names[number]
            data = files.read(name)
            if checksum(data) not in seen:  # the same file in two splits would leak
                seen.add(checksum(data))
                where = f"{settings.images}: {name}"
                yield Picture(square_jpeg(data, settings.side, where), {"source": name})
    if len(seen) < total:
        raise DataError(
            f"{settings.images}: has {len(seen)} different pictures, expected at least {total}"
        )


def encode(
    pictures: Sequence[Picture], settings: SimulatedDataset, watch: Watch = unwatched
) -> tuple[list[TargetSet], ProjectedEncoder]:
    """Return clip_tokens, the teacher's map and latents, and the encoder.

    The encoder's components are fitted on the train pictures, or fixed (see `dim`). Its
    map, without the summary token, is the low-level pipeline's teacher; small pictures are its
    latents.
    """
    base, codec = EfficientNetLite0(efficientnet_lite0_weights()), PixelCodec(settings.latent_side)
    raw = np.empty((len(pictures), base.num_tokens, base.dim), np.float16)
    latents = np.empty((len(pictures), *codec.shape), np.float16)
    for start in watch(range(0, len(pictures), ENCODED_AT_ONCE), "encoding pictures, chunk"):
        chunk = pictures[start : start + ENCODED_AT_ONCE]
        rgb = np.stack([decode(p.jpeg, f"picture {start + i}") for i, p in enumerate(chunk)])
        images = torch.from_numpy(rgb).permute(0, 3, 1, 2).float() / 255
        raw[start : start + len(chunk)] = base(images).numpy()
        latents[start : start + len(chunk)] = codec.encode(images).numpy()
    batches = [torch.from_numpy(part) for part in np.array_split(raw, -(-len(raw) // 256))]
    train = torch.from_numpy(raw[: settings.train_pictures]).split(256)
    if settings.images or settings.preset or settings.dim:
        projection = fit_projection((part.float() for part in train), settings.dim or COMPONENTS)
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


def simulation_configs(settings: SimulatedDataset) -> list[SimulationConfig]:
    """Return the settings of every subject: the preset's, or those of the flags.

    Raises:
        InputError: there is no such preset, or both it and flags are given.
    """
    if not settings.preset:
        return [replace(settings.simulation, subject=name) for name in settings.subjects]
    if settings.simulation != SimulationConfig():
        raise InputError(
            f"--preset {settings.preset}: got --simulation flags too, expected one of both"
        )
    return [nsd_preset(settings.preset.removeprefix("nsd-"))]


def write_subject(
    store: Store,
    settings: SimulatedDataset,
    brain: SimulatedSubject,
    pictures: Sequence[Picture],
    features: np.ndarray,
    sets: Sequence[TargetSet],
) -> Subject:
    """Write a brain's responses to the pictures; return its entry of the manifest."""
    name = brain.config.subject
    log.info("%s: %d pictures x %d repeats", name, len(pictures), brain.config.num_repeats)
    responses = brain.respond(range(len(pictures)), features)
    splits, first = {}, 0
    targets: dict[str, dict[str, tuple[Shard, ...]]] = {target.name: {} for target in sets}
    for split, count in settings.counts.items():
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


def write_about(store: Store, pictures: Sequence[Picture], settings: SimulatedDataset) -> None:
    """Write source, caption and true factors of every picture, a JSON line each."""
    names = [split for split, count in settings.counts.items() for _ in range(count)]
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
