"""Pictures/s of a reconstruction: candidates batched against one at a time, run in turn.

The project's own generator and EfficientNet-Lite0's tokens, the demo's networks with random
weights. One at a time: the same Reconstructor, a batch of one candidate. Prints the ratio and where
the batched run spends its time, and adds both to runs/bench.json.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from jobs.opening.encoders import target_encoder
from jobs.opening.generators import open_generator
from jobs.options.encoders import EncoderOptions
from jobs.options.generators import GeneratorOptions
from jobs.recipes import demo, demo_lowlevel
from mindeye_dist.config import ExperimentConfig
from mindeye_dist.decoding.config import ReconstructionConfig
from mindeye_dist.decoding.predictor import Predictor
from mindeye_dist.decoding.reconstructor import LowLevelPipeline, Reconstructor
from mindeye_dist.frozen.codecs import PixelCodec
from mindeye_dist.generators.protocol import Generator
from mindeye_dist.models.build import build_model
from mindeye_dist.runs.checkpoint_writing import save_tensors
from mindeye_dist.runs.checkpoints import MODEL, STATE, Progress, checkpoint_files, complete_folder
from mindeye_dist.shapes import Shapes, TargetShape

PAIRS = 3
BRAINS = 4
NUM_VOXELS = 4000
LOWLEVEL = PixelCodec(28)
STAGES = ("prior", "generator", "re-encoding", "low level")


def main(out: Path, brains: int = BRAINS, pairs: int = PAIRS) -> None:
    """Run the pairs, print the table and add the figures to those that are there."""
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            "one at a time": open_reconstructor(Path(folder, "one"), 1),
            "batched": open_reconstructor(Path(folder, "batched"), ReconstructionConfig.batch_size),
        }
    seconds = {name: timed(way) for name, way in ways.items()}
    voxels = np.random.default_rng(0).standard_normal((brains, NUM_VOXELS)).astype(np.float32)
    keys = [f"picture{number}" for number in range(brains)]
    ways["batched"](voxels[:1], keys[:1])  # the first call pays for what is set up lazily
    for spent in seconds.values():
        spent.clear()
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(pairs):
        for name, way in ways.items():
            begun = time.perf_counter()
            way(voxels, keys)
            rates[name].append(brains / (time.perf_counter() - begun))
    figures = summarise(rates, seconds["batched"], brains)
    there = json.loads(out.read_text()) if out.exists() else {}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(there | {"reconstruct": figures}, indent=1))
    show(figures)


def open_reconstructor(folder: Path, batch_size: int) -> Reconstructor:
    """Return the demo's models with random weights, and 16 candidates a picture."""
    encoder = target_encoder(EncoderOptions(encoder="efficientnet-lite0"), None)
    latents = TargetShape(LOWLEVEL.shape, LOWLEVEL.name, LOWLEVEL.digest)
    teacher = TargetShape((encoder.shape[0] - 1, encoder.shape[1]), "random", "")
    tokens = TargetShape(encoder.shape, encoder.name, encoder.digest)
    predictor, low = (
        Predictor(untrained(folder, config, targets), batch_size=batch_size)
        for config, targets in (
            (demo(), {"clip_tokens": tokens}),
            (demo_lowlevel(), {"latents": latents, "feature_map": teacher}),
        )
    )
    return Reconstructor(
        predictor,
        open_generator(GeneratorOptions()),
        encoder,
        ReconstructionConfig(batch_size=batch_size),
        LowLevelPipeline(low, LOWLEVEL),
    )


def untrained(folder: Path, config: ExperimentConfig, targets: dict[str, TargetShape]) -> Path:
    """Write a checkpoint of a model as it starts, and return it."""
    torch.manual_seed(0)
    shapes = Shapes(num_voxels=NUM_VOXELS, targets=targets)
    path = folder / config.pipeline
    path.mkdir(parents=True)
    save_tensors(path / MODEL, build_model(config, shapes).state_dict())
    complete_folder(path, {STATE: asdict(Progress()), **checkpoint_files(config, shapes)})
    return path


class Timed:
    """A generator whose calls are timed."""

    def __init__(self, generator: Generator, call: Callable[..., Any]) -> None:
        self._generator, self._call = generator, call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)

    def __call__(self, *arguments: Any) -> Any:
        """Draw."""
        return self._call(*arguments)


def timed(way: Reconstructor) -> dict[str, float]:
    """Make a reconstructor count the seconds of its stages, and return the counts."""
    spent: dict[str, float] = {}

    def counted(stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            begun = time.perf_counter()
            answer = call(*arguments)
            spent[stage] = spent.get(stage, 0.0) + time.perf_counter() - begun
            return answer

        return run

    way.predictor.tokens = counted("prior", way.predictor.tokens)
    way.generator = Timed(way.generator, counted("generator", way.generator))
    way.encoder = replace(way.encoder, encode=counted("re-encoding", way.encoder.encode))
    way.blurry = counted("low level", way.blurry)
    return spent


def summarise(
    rates: dict[str, list[float]], spent: dict[str, float], brains: int
) -> dict[str, Any]:
    """Return median rates, the ratio pair by pair, and the share of each stage."""
    ratios = [a / b for a, b in zip(rates["batched"], rates["one at a time"], strict=True)]
    whole = sum(brains / rate for rate in rates["batched"])
    shares = {stage: spent.get(stage, 0.0) / whole for stage in STAGES}
    return {
        "pictures_per_s": {name: statistics.median(values) for name, values in rates.items()},
        "candidates": ReconstructionConfig.candidates,
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "pairs": len(ratios),
        "batched_stages": shares | {"rest": 1 - sum(shares.values())},
    }


def show(figures: dict[str, Any]) -> None:
    """Print the figures as tables."""
    table = Table("reconstruction", "pictures/s", "times one at a time", "range", "pairs")
    one, batched = (figures["pictures_per_s"][name] for name in ("one at a time", "batched"))
    spread = f"{figures['ratio_min']:.2f} .. {figures['ratio_max']:.2f}"
    table.add_row("one at a time", f"{one:.3f}", "1.00", "", "")
    table.add_row(
        "batched", f"{batched:.3f}", f"{figures['ratio']:.2f}", spread, str(figures["pairs"])
    )
    profile = Table("stage of the batched run", "share of its time")
    for stage, share in figures["batched_stages"].items():
        profile.add_row(stage, f"{share:.1%}")
    Console().print(table, profile)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
