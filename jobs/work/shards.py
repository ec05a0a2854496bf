"""Make shards: index published ones in place, or convert fMRI volumes to new ones.

In: tars of the published layout, whose headers are read; or 4-D NIfTI files (time series, or a
volume of GLM responses per trial), a mask and a table of events. Out: an index of each tar, and the
manifest last.
"""

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from jobs.command import absolute_path, watched
from jobs.options.shards import Convert, Index
from mindeye_dist.data.manifest import (
    FORMAT,
    MANIFEST,
    Manifest,
    Subject,
    read_manifest,
    write_manifest,
)
from mindeye_dist.data.writer import write_shards
from mindeye_dist.errors import DataError
from mindeye_dist.ingest.events import SPLITS, Trial, read_events
from mindeye_dist.ingest.nifti import (
    Response,
    group_repeats,
    read_mask,
    read_series,
    sample_members,
    trial_responses,
    usable_voxels,
    zscore,
)
from mindeye_dist.ingest.published_shards import (
    ScannedShard,
    describe_subject,
    find_shards,
    scan_shard,
)
from mindeye_dist.pictures import square_jpeg
from mindeye_dist.storage.store import Store


def index_shards(options: Index) -> Manifest:
    """Index shards; nothing is written before all have been checked.

    Raises:
        DataError: there are no shards, one is damaged, or they contradict each other.
    """
    store = Store(options.url)
    found = find_shards(store)
    if options.subject and options.subject not in found:
        raise DataError(f"{store.url}: no shards of {options.subject!r}, only of {sorted(found)}")
    names = [options.subject] if options.subject else list(found)
    manifest_to_extend(
        store, names, options.overwrite, options.licence
    )  # refuses before anything is read
    scanned = scan_shards(store, {name: found[name] for name in names}, options)
    described = {name: describe_subject(store, name, scanned[name]) for name in names}
    manifest_to_extend(
        store, names, options.overwrite, options.licence
    )  # once more: scanning takes a while
    for _, indexes in described.values():
        for path, data in indexes.items():
            store.write(path, data)
    subjects = {name: subject for name, (subject, _) in described.items()}
    return add_subjects(store, subjects, options.overwrite, options.licence)


def scan_shards(
    store: Store, found: dict[str, dict[str, list[str]]], options: Index
) -> dict[str, dict[str, list[ScannedShard]]]:
    """Read the headers of many shards concurrently, grouped by subject and split."""
    paths = [path for splits in found.values() for shards in splits.values() for path in shards]
    with ThreadPoolExecutor(max_workers=options.threads) as pool:
        futures = [pool.submit(scan_shard, store, path, options.checksums) for path in paths]
        try:
            by_path = {
                path: future.result()
                for path, future in zip(paths, watched(futures, "indexing shards"), strict=True)
            }
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return {
        name: {split: [by_path[path] for path in shards] for split, shards in splits.items()}
        for name, splits in found.items()
    }


def convert_volumes(options: Convert) -> Manifest:
    """Convert volumes to shards of one subject, the manifest last.

    Raises:
        DataError: volumes, mask and events do not fit together, a voxel is constant, a picture is
            missing, or existing shards would be overwritten.
    """
    store = Store(options.out)
    check_destination(store, options)
    trials = read_events(options.events, options.tr, options.val_runs, options.test_runs)
    jpegs = read_pictures(options, trials)
    responses = read_responses(options, trials)
    splits = group_repeats(trials)
    num_repeats = max(len(p.trials) for pictures in splits.values() for p in pictures)
    replaces = check_destination(store, options)  # once more: reading volumes takes a while
    shards = {
        split: write_shards(
            store,
            f"{split}/{split}_{options.subject}",
            sample_members(pictures, trials, responses, num_repeats, jpegs),
            by_contents=replaces,
        )
        for split, pictures in splits.items()
    }
    subject = Subject(
        num_voxels=responses.shape[1],
        num_repeats=num_repeats,
        rois={},
        ncsnr=(),
        truth="",
        truth_sha256="",
        splits=shards,
        targets={},
    )
    return add_subjects(store, {options.subject: subject}, options.overwrite, options.licence)


def check_destination(store: Store, options: Convert) -> bool:
    """Return whether the manifest has the subject, whose shards must then stay in place.

    Raises:
        DataError: it has the subject and --overwrite is off, or it lacks the subject and there are
            shards of that name.
    """
    manifest = manifest_to_extend(store, [options.subject], options.overwrite, options.licence)
    if options.subject in manifest.subjects:
        return True
    for split in SPLITS:
        pattern = re.compile(rf"{split}_{re.escape(options.subject)}_\d+\.tar")
        for name in filter(pattern.fullmatch, store.names(split)):
            raise DataError(
                f"{store.locate(f'{split}/{name}')}: is there, but no manifest has "
                f"{options.subject}; index it, move it away, or give another --subject or --out"
            )
    return False


def read_responses(options: Convert, trials: list[Trial]) -> np.ndarray:
    """Return the z-scored responses of the usable voxels, (trials, voxels).

    Raises:
        DataError: a session has no file, or the volumes do not fit the trials.
    """
    how = Response(
        delay=options.delay,
        window=options.window,
        detrend=options.detrend,
        volumes_per_run=options.volumes_per_run,
    )
    mask = read_mask(options.mask)
    files = session_files(options, trials)
    is_train = np.array([trial.split == "train" for trial in trials])
    scored: dict[str, np.ndarray] = {}
    numbers: dict[str, list[int]] = {}
    for path in watched(sorted(set(files.values())), "reading volumes"):
        series = read_series(path, mask)
        in_file = [i for i, trial in enumerate(trials) if files[trial.session] == path]
        raw = trial_responses(series, [trials[i] for i in in_file], how, str(path))
        for session in dict.fromkeys(trials[i].session for i in in_file):
            rows = [n for n, i in enumerate(in_file) if trials[i].session == session]
            numbers[session] = [in_file[n] for n in rows]
            where = f"{options.events}: session {session}"
            scored[session] = zscore(raw[rows], is_train[numbers[session]], where)
    usable = usable_voxels(scored, options.drop_constant)
    responses = np.empty((len(trials), int(usable.sum())), np.float32)
    for session, values in scored.items():
        responses[numbers[session]] = values[:, usable]
    return responses


def session_files(options: Convert, trials: list[Trial]) -> dict[str, Path]:
    """Return the file of each session: the only file, or the one whose number is the session.

    Raises:
        DataError: there are several files, and a session is not the number of one.
    """
    files: dict[str, Path] = {}
    for trial in trials:
        number = 1 if len(options.nifti) == 1 else trial.session
        if str(number).isdecimal() and 1 <= int(number) <= len(options.nifti):
            files[trial.session] = options.nifti[int(number) - 1]
        else:
            raise DataError(
                f"{options.events}: line {trial.line}: session is {trial.session!r}, expected a "
                f"number from 1 to {len(options.nifti)}, the number of files"
            )
    return files


def read_pictures(options: Convert, trials: list[Trial]) -> dict[str, bytes]:
    """Return all pictures cut square as JPEG, by name; none without --pictures.

    Raises:
        DataError: a picture is missing or unreadable; the message names the table's line.
    """
    if options.pictures is None:
        return {}
    jpegs: dict[str, bytes] = {}
    named = {trial.picture: trial.line for trial in trials if trial.picture}
    for name in watched(list(named), "reading pictures"):
        where = f"{options.events}: line {named[name]}: {options.pictures / name}"
        try:
            data = (options.pictures / name).read_bytes()
        except OSError as error:
            raise DataError(f"{where}: cannot be read: {error.strerror}") from error
        jpegs[name] = square_jpeg(data, options.side, where)
    return jpegs


def manifest_to_extend(store: Store, names: list[str], overwrite: bool, licence: str) -> Manifest:
    """Return the manifest to add subjects to: the existing one, or an empty one.

    Raises:
        DataError: the manifest has one of the subjects, and `overwrite` is off.
    """
    if not store.exists(MANIFEST):
        return Manifest(format=FORMAT, licence=licence, subjects={})
    manifest = read_manifest(store)
    there = sorted(set(names) & set(manifest.subjects))
    if there and not overwrite:
        raise DataError(
            f"{store.locate(MANIFEST)}: has {', '.join(there)} already; --subject names another, "
            "--overwrite replaces"
        )
    return manifest


def add_subjects(
    store: Store, subjects: dict[str, Subject], overwrite: bool, licence: str
) -> Manifest:
    """Read the manifest again, add or replace subjects, and write and return it.

    Raises:
        DataError: one of the subjects was added meanwhile, and `overwrite` is off.
    """
    manifest = manifest_to_extend(store, list(subjects), overwrite, licence)
    manifest = replace(manifest, subjects={**manifest.subjects, **subjects})
    write_manifest(store, manifest)
    return manifest


def run(options: Index | Convert) -> None:
    """Index or convert, and print the subjects of the manifest."""
    if isinstance(options, Index):
        options = replace(options, url=absolute_path(options.url))
        manifest, url = index_shards(options), options.url
    else:
        options = replace(options, out=absolute_path(options.out))
        manifest, url = convert_volumes(options), options.out
    for name, subject in manifest.subjects.items():
        counts = {k: sum(s.num_samples for s in v) for k, v in subject.splits.items()}
        print(f"{name}: {subject.num_voxels} voxels, samples {counts}", file=sys.stderr)
    print(f"wrote {url}/{MANIFEST}", file=sys.stderr)
