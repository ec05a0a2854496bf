"""Conversion from files to shards; and real fMRI that stays decodable on the way."""

import itertools
import os
import sys
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from sklearn.svm import SVC

from jobs.options.shards import Convert
from jobs.shards import main
from jobs.work import shards as work
from jobs.work.shards import convert_volumes
from mindeye_dist.config import DataConfig
from mindeye_dist.data.dataset import Dataset
from mindeye_dist.data.manifest import Targets, read_manifest, write_manifest
from mindeye_dist.data.members import read_members
from mindeye_dist.data.shards import decode_npy, read_index
from mindeye_dist.errors import DataError
from mindeye_dist.pictures import decode, encode_jpeg
from mindeye_dist.storage.store import Store

VOLUMES = 24
SPLITS = ("train", "val", "test")


@pytest.fixture
def scan(tmp_path):
    """Two sessions of betas in files of their own, a mask, pictures, and a table of them."""
    generator = np.random.default_rng(0)
    mask = generator.random((3, 4, 2)) < 0.5
    bold = generator.standard_normal((2, 3, 4, 2, VOLUMES)).astype(np.float32)
    for name, values in (("1.nii", bold[0]), ("2.nii", bold[1]), ("mask.nii", mask * np.uint8(1))):
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / name)
    for i in range(16):
        (tmp_path / f"{i}.jpg").write_bytes(encode_jpeg(np.full((9, 12, 3), 10 * i, np.uint8)))
    lines = ["session\trun\tvolume\tpicture\tcondition\tsplit"]
    for session in (1, 2):
        for volume in range(VOLUMES):
            picture = (volume * 5 + session) % 16
            split = "test" if picture > 12 else "val" if picture == 12 else "train"
            lines.append(f"{session}\t1\t{volume}\t{picture}.jpg\tkind{picture % 3}\t{split}")
    (tmp_path / "events.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path, bold[:, mask]


def options(folder, **changes):
    values = {
        "nifti": (folder / "1.nii", folder / "2.nii"),
        "mask": folder / "mask.nii",
        "events": folder / "events.tsv",
        "pictures": folder,
        "side": 8,
        "out": str(folder / "out"),
        **changes,
    }
    return Convert(**values)


def read_split(store, split):
    """Return the samples of a split, their members decoded."""
    shards = read_manifest(store).subject("subj01").splits[split]
    for sample in (sample for shard in shards for sample in read_index(store, shard)):
        bodies = read_members(store, [(sample, suffix) for suffix in sample.members])
        yield {
            suffix: decode_npy(body, suffix) if suffix.endswith(".npy") else body
            for suffix, body in zip(sample.members, bodies, strict=True)
        }


def test_betas_of_two_sessions(scan):
    """Oracle: loops over trials, sessions and voxels, from the table's own rule."""
    folder, bold = scan
    convert_volumes(options(folder))
    store = Store(str(folder / "out"))
    subject = read_manifest(store).subject("subj01")
    assert (subject.num_voxels, subject.num_repeats) == (bold.shape[1], 4)
    shown = [(s, v, (v * 5 + s + 1) % 16) for s in (0, 1) for v in range(VOLUMES)]
    statistics = []
    for session in (0, 1):
        train = [bold[session][:, v].astype(float) for s, v, p in shown if s == session and p < 12]
        mean = sum(train) / len(train)
        statistics.append((mean, np.sqrt(sum((t - mean) ** 2 for t in train) / len(train))))
    seen = set()
    for split, pictures in (("train", range(12)), ("val", [12]), ("test", range(13, 16))):
        for sample in read_split(store, split):
            trials = sample["trial.npy"].tolist()
            distinct = trials[: sample["num_uniques.npy"].item()]
            picture = shown[trials[0]][2]
            assert distinct == [i for i, (_, _, p) in enumerate(shown) if p == picture]
            assert trials == (distinct * 4)[:4]
            assert sample["condition.txt"].decode() == f"kind{picture % 3}"
            assert picture in pictures
            assert np.abs(decode(sample["jpg"], "").astype(int) - 10 * picture).max() <= 2
            for row, i in zip(sample["nsdgeneral.npy"], trials, strict=True):
                session, volume, _ = shown[i]
                mean, deviation = statistics[session]
                expected = (bold[session][:, volume] - mean) / deviation
                np.testing.assert_allclose(row, expected, rtol=2e-3, atol=2e-3)
            seen.add(picture)
    assert seen == set(range(16))


def test_sessions_of_one_file(scan):
    """Oracle: the same sessions in files of their own."""
    folder, _ = scan
    apart = convert_volumes(options(folder))
    both = [nibabel.load(folder / name).get_fdata(dtype=np.float32) for name in ("1.nii", "2.nii")]
    together = nibabel.Nifti1Image(np.concatenate(both, axis=-1), np.eye(4))
    nibabel.save(together, folder / "both.nii.gz")
    lines = (folder / "events.tsv").read_text().splitlines()
    for number, line in enumerate(lines[1:], start=1):
        session, run, volume, *rest = line.split("\t")
        # Onsets 1.5 s apart, a little late: they are rounded to the nearest volume.
        onset = 1.5 * (int(volume) + (VOLUMES if session == "2" else 0)) + 0.3
        lines[number] = "\t".join([f"day {session}", run, str(onset), *rest])
    lines[0] = lines[0].replace("volume", "onset")
    (folder / "onsets.tsv").write_text("\n".join(lines) + "\n")
    changes = {"nifti": (folder / "both.nii.gz",), "events": folder / "onsets.tsv", "tr": 1.5}
    assert convert_volumes(options(folder, out=str(folder / "other"), **changes)) == apart


def test_another_subject_joins(scan):
    folder, _ = scan
    first = convert_volumes(options(folder)).subject("subj01")
    with pytest.raises(DataError, match=r"manifest.json: has subj01 already"):
        convert_volumes(options(folder))
    both = convert_volumes(options(folder, subject="subj02"))
    assert sorted(both.subjects) == ["subj01", "subj02"]
    assert both.subject("subj01") == first
    again = convert_volumes(options(folder, subject="subj02", overwrite=True))
    assert again.subject("subj01") == first
    digests = [
        [[s.sha256 for s in own] for own in m.subject("subj02").splits.values()]
        for m in (both, again)
    ]
    assert digests[0] == digests[1]
    assert convert_volumes(options(folder, subject="subj02", overwrite=True)) == again


def test_tars_that_no_manifest_has_are_not_replaced(scan):
    folder, _ = scan
    store = Store(str(folder / "out"))
    for path in ("train/train_subj01_0.tar", "test/test_subj01_7.tar"):
        store.write(path, b"dear to someone")
        with pytest.raises(DataError, match=rf"out/{path}: is there, but no manifest has subj01"):
            convert_volumes(options(folder, overwrite=True))
        assert [p.name for p in (folder / "out").rglob("*.*")] == [Path(path).name]
        assert store.read(path) == b"dear to someone"
        (folder / "out" / path).unlink()
    store.write("train/train_subj01_later_0.tar", b"of another subject")
    store.write("train/train_subj010_0.tar", b"of another subject")
    convert_volumes(options(folder))
    assert store.read("train/train_subj010_0.tar") == b"of another subject"


def failing_writes(monkeypatch, count):
    """Let a store's writes fail from the count-th on."""
    write, done = Store.write, []

    def fail(self, path, data):
        done.append(path)
        if len(done) > count:
            raise DataError(f"{path}: no space left")
        write(self, path, data)

    monkeypatch.setattr(Store, "write", fail)


@pytest.mark.parametrize("replaced_before", [True, False])
@pytest.mark.parametrize("count", [1, 4, 6])
def test_a_replacement_that_fails_leaves_the_old_subject(scan, monkeypatch, count, replaced_before):
    """Oracle: what was read before, checksums and digests included."""
    folder, bold = scan
    store = Store(str(folder / "out"))
    convert_volumes(options(folder))
    if replaced_before:
        convert_volumes(options(folder, overwrite=True))
    manifest = read_manifest(store)
    before = [s["nsdgeneral.npy"] for split in SPLITS for s in read_split(store, split)]
    with monkeypatch.context() as patched:
        failing_writes(patched, count)
        changes = {"overwrite": True, "nifti": (folder / "2.nii", folder / "1.nii")}
        with pytest.raises(DataError, match="no space left"):
            convert_volumes(options(folder, **changes))
    assert read_manifest(store) == manifest
    after = [s["nsdgeneral.npy"] for split in SPLITS for s in read_split(store, split)]
    np.testing.assert_array_equal(after, before)
    convert_volumes(options(folder, **changes))
    (after, *_) = [s["nsdgeneral.npy"] for s in read_split(store, "train")]
    assert (after != before[0]).any()


def meanwhile(monkeypatch, step, change):
    """Let something happen to the manifest while a step of the job is under way."""
    original = getattr(work, step)

    def slow(*arguments):
        result = original(*arguments)
        change()
        return result

    monkeypatch.setattr(work, step, slow)


def test_what_others_enter_meanwhile_stays(scan, monkeypatch):
    folder, _ = scan
    convert_volumes(options(folder))
    store = Store(str(folder / "out"))
    targets = Targets(kind="latents", encoder="e", digest="0", shape=(4,), variants=0, splits={})

    def enter():
        manifest = read_manifest(store)
        changed = replace(manifest.subject("subj01"), targets={"new": targets})
        write_manifest(store, replace(manifest, subjects={**manifest.subjects, "subj01": changed}))

    meanwhile(monkeypatch, "read_responses", enter)
    manifest = convert_volumes(options(folder, subject="subj02"))
    assert manifest == read_manifest(store)
    assert sorted(manifest.subjects) == ["subj01", "subj02"]
    assert manifest.subject("subj01").targets == {"new": targets}


def test_a_subject_that_came_meanwhile_is_not_replaced(scan, monkeypatch):
    folder, _ = scan
    with monkeypatch.context() as patched:

        def come():
            patched.undo()
            convert_volumes(options(folder))

        meanwhile(patched, "read_responses", come)
        with pytest.raises(DataError, match=r"manifest.json: has subj01 already"):
            convert_volumes(options(folder, nifti=(folder / "2.nii", folder / "1.nii")))
    store = Store(str(folder / "out"))
    assert list(read_split(store, "train")), "every member has its checksum"


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_what_does_not_fit_is_named_and_nothing_is_written(scan):
    folder, _ = scan
    events = folder / "events.tsv"
    whole = events.read_text()
    (folder / "7.jpg").rename(folder / "seven.jpg")
    with pytest.raises(DataError, match=r"events.tsv: line \d+: .*7.jpg: cannot be read: No such"):
        convert_volumes(options(folder))
    (folder / "seven.jpg").rename(folder / "7.jpg")
    for old, new, message in (
        ("2\t1\t23\t", "2\t1\t24\t", r"line 49: .*24 to 24, but .*2.nii ends with volume 23"),
        ("2\t1\t23\t", "3\t1\t23\t", "line 49: session is '3', expected a number from 1 to 2"),
        ("2\t1\t23\t", "x\t1\t23\t", "line 49: session is 'x', expected a number from 1 to 2"),
        ("split", "fold", "expected either a column split, or val or test runs"),
    ):
        edit(events, old, new)
        with pytest.raises(DataError, match=message):
            convert_volumes(options(folder))
        events.write_text(whole)
    text = "session\trun\tvolume\tcondition\tsplit\n1\t1\t1\ta\ttrain\n1\t1\t2\ta\ttrain\n"
    events.write_text(text + "2\t1\t1\ta\ttest\n")
    with pytest.raises(DataError, match="events.tsv: session 2: has no training trials"):
        convert_volumes(options(folder))
    assert not (folder / "out").exists()


def test_constant_voxels_are_left_out_if_asked(scan):
    folder, bold = scan
    image = nibabel.load(folder / "2.nii")
    values = image.get_fdata().astype(np.float32)
    place = tuple(np.argwhere(nibabel.load(folder / "mask.nii").get_fdata())[1])
    values[place] = 3.5
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / "2.nii")
    with pytest.raises(DataError, match=rf"1 of {bold.shape[1]} voxels are constant .*'2': 1"):
        convert_volumes(options(folder))
    assert not (folder / "out").exists()
    manifest = convert_volumes(options(folder, drop_constant=True))
    assert manifest.subject("subj01").num_voxels == bold.shape[1] - 1
    for sample in read_split(Store(str(folder / "out")), "train"):
        assert sample["nsdgeneral.npy"].shape == (4, bold.shape[1] - 1)
        assert np.isfinite(sample["nsdgeneral.npy"]).all()


def test_nearly_constant_voxels_are_left_out_if_asked(scan):
    """A voxel that no training trial moves by more than 0.1, and a test trial by 1e5."""
    folder, bold = scan
    image = nibabel.load(folder / "2.nii")
    values = image.get_fdata().astype(np.float32)
    place = tuple(np.argwhere(nibabel.load(folder / "mask.nii").get_fdata())[1])
    values[place] = 1000 + np.arange(VOLUMES) % 2 / 10
    values[place][15] = 1e5  # picture (15 * 5 + 2) % 16 = 13 is of the test split
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / "2.nii")
    with pytest.raises(
        DataError, match=rf"1 of {bold.shape[1]} voxels .* float16's 65504 .*'2': 1"
    ):
        convert_volumes(options(folder))
    assert not (folder / "out").exists()
    manifest = convert_volumes(options(folder, drop_constant=True))
    assert manifest.subject("subj01").num_voxels == bold.shape[1] - 1


def test_command_line(scan, capsys):
    folder, _ = scan
    flags = ["--nifti", str(folder / "1.nii"), str(folder / "2.nii"), "--out", str(folder / "out")]
    flags += ["--mask", str(folder / "mask.nii"), "--events", str(folder / "events.tsv")]
    main(["convert", *flags])
    assert "'train': 12, 'val': 1, 'test': 3}" in capsys.readouterr().err
    assert all("jpg" not in s for s in read_split(Store(str(folder / "out")), "train"))
    with pytest.raises(SystemExit) as stopped:
        main(["convert", *flags, "--subject", "subj02", "--window", "0"])
    assert "window 0: expected at least" in str(stopped.value.code)


@pytest.fixture(scope="module")
def haxby():
    """Return a folder with bold.nii.gz, mask.nii.gz and attributes_literal.txt (label, run)."""
    folder = os.environ.get("MINDEYE_FMRI", "")
    if not folder:
        pytest.skip("MINDEYE_FMRI names no folder with bold.nii.gz of Haxby et al. 2001")
    return Path(folder)


def arrays(store, manifest, split):
    """Return voxels and conditions of a split, as training and evaluation read them."""
    dataset = Dataset(store, manifest, DataConfig(url=store.url), split)
    kinds = read_members(store, [(sample, "condition.txt") for sample in dataset.samples])
    return dataset.averages(), [kind.decode() for kind in kinds]


def test_real_fmri_is_decodable_from_our_shards(haxby, tmp_path):
    """One trial a block of nine volumes; each run in turn is the test split, chance is 12.5 %."""
    labels = [tuple(x.split()) for x in (haxby / "attributes_literal.txt").read_text().splitlines()]
    lines, volume = ["session\trun\tvolume\tcondition"], 0
    for (label, run), block in itertools.groupby(labels):
        if label != "rest":
            lines.append(f"1\t{run}\t{volume}\t{label}")
        volume += len(list(block))
    (tmp_path / "events.tsv").write_text("\n".join(lines) + "\n")
    accuracies = []
    for run in sorted({run for _, run in labels}):
        manifest = convert_volumes(
            Convert(
                nifti=(haxby / "bold.nii.gz",),
                mask=haxby / "mask.nii.gz",
                events=tmp_path / "events.tsv",
                out=str(tmp_path / run),
                window=9,
                detrend=True,
                volumes_per_run=(121,),
                test_runs=(run,),
            )
        )
        assert manifest.subject("subj01").num_voxels == 530
        store = Store(str(tmp_path / run))
        voxels, kinds = arrays(store, manifest, "train")
        assert voxels.shape == (88, 530)
        # Of the training trials alone, or the test run would have had a say.
        np.testing.assert_allclose(voxels.mean(axis=0), 0, atol=2e-3)
        np.testing.assert_allclose(voxels.std(axis=0), 1, atol=2e-3)
        decoder = SVC(kernel="linear").fit(voxels, kinds)
        accuracies.append(decoder.score(*arrays(store, manifest, "test")))
    sys.stdout.write(f"\nHaxby, leave one run out: {np.mean(accuracies):.1%} of 96 blocks\n")
    assert np.mean(accuracies) >= 0.55
