"""Check that a simulated subject is as hard to decode as NSD's subject 1.

Pictures -> clip_tokens -> simulated responses -> ridge regression -> 300-way retrieval, beside what
ridge regression reaches on real responses: after one session (750 single trials) and after all of
them. `python jobs/calibrate.py --preset nsd-subj01` takes about ten minutes on two cores and ends
with status 1 if a figure is out of tolerance.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import tyro
from jaxtyping import Float
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from jobs.command import clear_errors
from jobs.opening.generator_pictures import LOOKED_AT, digest_of
from jobs.options.simulate import Simulate
from jobs.simulate import COMPONENTS, encode, load_pictures
from mindeye_dist.data.shards import checksum
from mindeye_dist.errors import InputError
from mindeye_dist.evaluation.ridge import fit_ridge
from mindeye_dist.metrics import DIRECTIONS, ranks, similarity, top_k
from mindeye_dist.pictures import decode, small
from mindeye_dist.randomness import numpy_generator
from mindeye_dist.simulation.brain import (
    OptimalDecoder,
    Responses,
    SimulatedSubject,
    estimate_ncsnr,
    make_subject,
)
from mindeye_dist.simulation.config import SimulationConfig
from mindeye_dist.simulation.nsd import nsd_preset
from mindeye_dist.simulation.tuning import fit_feature_space
from mindeye_dist.strict import check

SESSION = 750
DRAWS = 20
PENALTIES = (1e3, 3e3, 1e4)
ANCHORS = {
    ("one session", "image_to_brain"): 55.0,
    ("one session", "brain_to_image_centred"): 31.7,
    ("all sessions", "image_to_brain"): 96.4,
    ("all sessions", "brain_to_image_centred"): 86.5,
}
"""Top-1 (%) of fractional ridge on subject 1 of NSD, as the independent replication measured it."""
NCSNR_R = 0.98


@dataclass(frozen=True, kw_only=True)
class Calibrate:
    """Measure a preset's difficulty against published anchors."""

    preset: str = "nsd-subj01"
    """nsd-subj01 .. nsd-subj08, or demo; the anchors are subject 1's."""
    train_pictures: int = 8859
    val_pictures: int = 300
    test_pictures: int = 982
    images: str = ""
    """Folder or tar of JPEG or PNG pictures; rendered scenes without it."""
    features_cache: str = ""
    """File (.npz) that keeps the encoded pictures for the next time."""
    pool: int = 300
    """Pictures among which retrieval has to find the right one."""
    tolerance: float = 10.0
    """Largest distance from an anchor (points)."""

    def __post_init__(self) -> None:
        train, cache = self.train_pictures, self.features_cache
        check(train >= SESSION, "train_pictures", train, f"at least {SESSION}, one session")
        fits = 2 <= self.pool <= self.test_pictures
        check(fits, "pool", self.pool, f"2 to {self.test_pictures}, the test pictures")
        # NumPy adds the ending itself, and what it wrote would never be found.
        check(not cache or cache.endswith(".npz"), "features_cache", cache, "a file .npz")


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Encoded pictures: train first, then val, then test."""

    clip_tokens: Float[np.ndarray, "pictures tokens dim"]
    small: np.ndarray


def main(options: Calibrate) -> int:
    """Measure, print the table and return the exit status."""
    console = Console()
    pictures = load(options, console)
    train = options.train_pictures
    config = settings(options.preset)
    console.log(f"{config.subject}: {config.num_voxels} voxels, {len(pictures.small)} pictures")
    space = fit_feature_space(
        pictures.clip_tokens[:train],
        pictures.small[:train],
        num_semantic=config.num_components,
        num_lowlevel=config.num_lowlevel,
    )
    features = space(pictures.clip_tokens, pictures.small)
    subject = make_subject(config, space)
    responses = subject.respond(range(len(features)), features)
    console.log("responses simulated")
    measured = dict(measure(options, pictures, responses, console))
    console.log("optimal decoder")
    measured |= attainable(options, pictures, responses, subject, features)
    planted = np.corrcoef(estimate_ncsnr(responses.voxels), subject.ncsnr)[0, 1]
    return report(options, measured, float(planted), console)


def settings(preset: str) -> SimulationConfig:
    """Return the subject that a preset names."""
    return SimulationConfig() if preset == "demo" else nsd_preset(preset.removeprefix("nsd-"))


def load(options: Calibrate, console: Console) -> Pictures:
    """Return the encoded pictures, from the cache if it holds them.

    Raises:
        InputError: the cache holds other pictures.
    """
    source = Simulate(
        images=options.images,
        dim=0 if options.preset == "demo" else COMPONENTS,
        train_pictures=options.train_pictures,
        val_pictures=options.val_pictures,
        test_pictures=options.test_pictures,
    )
    cache = Path(options.features_cache) if options.features_cache else None
    about = identity(options, source) if cache else ""
    if cache and cache.exists():
        with np.load(cache, allow_pickle=False) as file:
            pictures = Pictures(clip_tokens=file["clip_tokens"], small=file["small"])
            held = str(file["of"]) if "of" in file else "something else"
        if held != about:
            raise InputError(f"{cache}: holds {held}, expected {about}")
        return pictures
    console.log(f"making and encoding {sum(source.counts.values())} pictures")
    stored = list(load_pictures(source))
    clip_tokens = encode(stored, source)[0][0].arrays
    shrunk = [small(decode(picture.jpeg, f"picture {i}")) for i, picture in enumerate(stored)]
    pictures = Pictures(clip_tokens=clip_tokens, small=np.stack(shrunk))
    if cache:
        partial = cache.with_name(f"{cache.stem}.partial.npz")
        np.savez(partial, of=about, **vars(pictures))
        partial.replace(cache)
    return pictures


def identity(options: Calibrate, source: Simulate) -> str:
    """Return in a line which pictures are encoded, and how."""
    # Some of them stand for all: the first ones of another folder, or drawn otherwise, differ.
    looks = [checksum(picture.jpeg) for picture in islice(load_pictures(source), LOOKED_AT)]
    counts = ", ".join(f"{count} {split}" for split, count in source.counts.items())
    tokens = "the demo's tokens" if options.preset == "demo" else f"{COMPONENTS} components"
    pictures = f"{options.images or 'rendered scenes'} ({digest_of(' '.join(looks))})"
    return f"{counts} pictures of {pictures} by {tokens}"


def measure(
    options: Calibrate, pictures: Pictures, responses: Responses, console: Console
) -> Iterator[tuple[tuple[str, str], float]]:
    """Yield ridge regression's figures after one session and after all."""
    train, test = options.train_pictures, options.train_pictures + options.val_pictures
    targets = pictures.clip_tokens.reshape(len(pictures.clip_tokens), -1).astype(np.float32)
    held_out = average(responses.voxels[train:])
    val, val_targets = held_out[: test - train], targets[train:test]
    for amount in ("one session", "all sessions"):
        console.log(f"ridge, {amount}")
        if amount == "one session":
            voxels = responses.voxels[:SESSION, 0].astype(np.float32)
        else:
            voxels = average(responses.voxels[:train])
        fit = fit_ridge(voxels, targets[: len(voxels)], val, val_targets, PENALTIES)
        predicted = fit.predict(held_out[test - train :])
        for name, value in retrieve(predicted, targets[test:], options.pool).items():
            yield (amount, name), value


def attainable(
    options: Calibrate,
    pictures: Pictures,
    responses: Responses,
    subject: SimulatedSubject,
    features: Float[np.ndarray, "pictures features"],
) -> dict[tuple[str, str], float]:
    """Return the figures of the optimal linear decoder and of the ideal observer."""
    test = options.train_pictures + options.val_pictures
    decoder = OptimalDecoder(subject, subject.config.num_repeats)
    voxels = average(responses.voxels[test:])
    targets = pictures.clip_tokens[test:].reshape(len(voxels), -1)
    linear = retrieve(decoder.clip_tokens(voxels), targets, options.pool)
    evidence = decoder.similarity(voxels, features[test:])
    observer = top1(len(voxels), options.pool, lambda drawn: evidence[np.ix_(drawn, drawn)])
    return {("optimal linear", name): value for name, value in linear.items()} | {
        ("ideal observer", name): value for name, value in observer.items()
    }


def average(voxels: Float[np.ndarray, "pictures repeats voxels"]) -> np.ndarray:
    """Return each picture's response averaged over its repeats, in chunks to spare memory."""
    chunks = np.array_split(voxels, -(-len(voxels) // 500))
    return np.concatenate([chunk.astype(np.float32).mean(axis=1) for chunk in chunks])


def retrieve(predicted: np.ndarray, targets: np.ndarray, pool: int) -> dict[str, float]:
    """Return top-1 (%) of both directions, raw and centred on the pool."""
    raw = top1(len(targets), pool, lambda drawn: similarity(predicted[drawn], targets[drawn]))
    centred = top1(
        len(targets), pool, lambda drawn: similarity(predicted[drawn], targets[drawn], centred=True)
    )
    return raw | {f"{direction}_centred": value for direction, value in centred.items()}


def top1(
    num_pictures: int, pool: int, score: Callable[[np.ndarray], np.ndarray]
) -> dict[str, float]:
    """Return top-1 (%) of both directions, the mean over seeded draws of a pool."""
    generator = numpy_generator(0, "pools")
    pools = [generator.permutation(num_pictures)[:pool] for _ in range(DRAWS)]
    similarities = [score(drawn) for drawn in pools]
    return {
        direction: 100 * float(np.mean([top_k(ranks(s, direction), 1) for s in similarities]))
        for direction in DIRECTIONS
    }


def report(
    options: Calibrate, measured: dict[tuple[str, str], float], ncsnr_r: float, console: Console
) -> int:
    """Print every figure beside its anchor and return 1 if one is out of tolerance, else 0."""
    anchors = {} if options.preset == "demo" else ANCHORS
    table = Table("decoder", "top-1 (%)", "here", "NSD", "apart", "ok", box=SIMPLE)
    failures = 0
    for (decoder, name), value in measured.items():
        anchor = anchors.get((decoder, name))
        if anchor is None:
            table.add_row(decoder, name, f"{value:.1f}")
            continue
        holds = abs(value - anchor) <= options.tolerance
        failures += not holds
        verdict = "yes" if holds else "NO"
        table.add_row(
            decoder, name, f"{value:.1f}", f"{anchor:.1f}", f"{value - anchor:+.1f}", verdict
        )
    recovered = ncsnr_r >= NCSNR_R
    console.print(table)
    verdict = "yes" if recovered else "NO"
    console.print(f"ncsnr, estimated and planted: r = {ncsnr_r:.3f}, at least {NCSNR_R}: {verdict}")
    return int(failures > 0 or not recovered)


if __name__ == "__main__":
    with clear_errors():
        sys.exit(main(tyro.cli(Calibrate, description=__doc__)))
