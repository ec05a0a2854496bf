"""Not a test: a lab with everything that draws pictures, all tiny and all real."""

from dataclasses import replace
from types import SimpleNamespace

import torch

from jobs import embed
from jobs.worker import worker
from mindeye_dist.data.manifest import read_manifest, write_manifest
from mindeye_dist.frozen.codecs import PixelCodec
from mindeye_dist.frozen.efficientnet import EfficientNetLite0, efficientnet_lite0_weights
from mindeye_dist.frozen.projection import ProjectedEncoder, fit_projection
from mindeye_dist.generators.config import GeneratorConfig
from mindeye_dist.generators.small import SmallGenerator
from mindeye_dist.generators.small_network import PictureTransformer
from mindeye_dist.shapes import TargetShape
from mindeye_dist.storage.store import Store
from mindeye_dist.strict import override
from tests.conftest import tiny_run, write_tiny_subject

SHORT = {
    "training.epochs": 1,
    "data.targets": "efficientnet-lite0",
    "data.latents": "pixels",
}


def make_lab(folder, truth="", subject="subj01", num_test=64, settings=None):
    """Make shards, a run with its low-level one, and a generator.

    Args:
        folder: where.
        truth: what the manifest says of the simulator's truth; a brain with any is simulated.
        subject: what the brain is called.
        num_test: pictures of the test split.
        settings: of both runs, by dotted path.
    """
    shards, run, weights = folder / "shards", folder / "run", folder / "generator.safetensors"
    write_tiny_subject(shards, counts={"train": 6, "val": 4, "test": num_test})
    rename_subject(shards, subject, truth)
    base = EfficientNetLite0(efficientnet_lite0_weights())
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    projected = ProjectedEncoder(base, fit_projection([base(images)], 4))
    (shards / "encoders").mkdir()
    projected.save(shards / "encoders" / "efficientnet-lite0.safetensors")
    for encoder, *more in (["efficientnet-lite0"], ["pixels", "--side", "4"]):
        flags = ["--data-url", str(shards), "--encoder", encoder, *more, "--without-ray"]
        embed.main(flags)
    for pipeline, run_dir in (("highlevel", run), ("lowlevel", f"{run}-lowlevel")):
        changes = {**SHORT, "pipeline": pipeline, "data.subject": subject, **(settings or {})}
        worker(override(tiny_run(shards, run_dir), changes))
    targets = TargetShape((50, 4), projected.name, projected.digest)
    write_generator(weights, targets)
    return SimpleNamespace(shards=shards, run=run, weights=weights, targets=targets)


def rename_subject(shards, subject, truth):
    """Give the only subject another name, and say whether it is simulated."""
    store = Store(str(shards))
    manifest = read_manifest(store)
    about = replace(manifest.subjects["subj01"], truth=truth)
    write_manifest(store, replace(manifest, subjects={subject: about}))


def write_generator(path, targets):
    """Write the project's own generator, tiny and with random weights."""
    torch.manual_seed(0)
    config = GeneratorConfig(patch=8, width=16, depth=1, heads=2, steps=2)
    codec = PixelCodec(16)
    network = PictureTransformer(config, codec.shape, targets.shape)
    torch.nn.init.normal_(network.last.weight, std=0.3)
    SmallGenerator(network, config, codec, targets).save(path)
