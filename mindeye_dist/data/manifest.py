"""The manifest: which subjects, splits, shards and target sets a store holds."""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass

from mindeye_dist.errors import DataError
from mindeye_dist.shapes import Kind
from mindeye_dist.storage.store import Store
from mindeye_dist.strict import from_dict

MANIFEST = "manifest.json"


FORMAT = "mindeye-dist-shards/2"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar file.

    Attributes:
        path: path relative to the manifest; the index is relative, too.
        sha256: digest of the whole tar, "" where it was indexed without reading it all.
        index_sha256: digest of its index.
    """

    path: str
    index: str
    num_bytes: int
    num_samples: int
    sha256: str
    index_sha256: str


@dataclass(frozen=True, kw_only=True)
class Targets:
    """One target of every picture by one frozen model, in shards parallel to the samples'.

    Attributes:
        digest: of the model's weights and preprocessing.
        shape: of one target.
        variants: augmented variants that stand beside the target of the picture itself.
    """

    kind: Kind
    encoder: str
    digest: str
    shape: tuple[int, ...]
    variants: int
    splits: dict[str, tuple[Shard, ...]]

    def member(self, variant: int) -> str:
        """Return the member that holds a variant, 0 being the picture itself."""
        return f"{self.kind}.{variant}.npy" if variant else f"{self.kind}.npy"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One brain.

    Attributes:
        rois: voxel numbers of each region, empty where they are not known.
        ncsnr: noise-ceiling SNR of each voxel, empty where it is not known.
        truth: path of the simulator's truth, empty for a real brain; truth_sha256 its digest.
    """

    num_voxels: int
    num_repeats: int
    rois: dict[str, tuple[int, ...]]
    ncsnr: tuple[float, ...]
    truth: str
    truth_sha256: str
    splits: dict[str, tuple[Shard, ...]]
    targets: dict[str, Targets]

    def target_set(self, kind: str, name: str) -> Targets:
        """Return a set of targets of a kind.

        Raises:
            DataError: there is no such set; the message lists those there are.
        """
        there = sorted(key for key, targets in self.targets.items() if targets.kind == kind)
        if name not in there:
            raise DataError(f"no {kind} {name!r} in the manifest, only {there}")
        return self.targets[name]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Content of a store: subjects with their splits, shards and targets."""

    format: str
    licence: str
    subjects: dict[str, Subject]

    def subject(self, name: str) -> Subject:
        """Return a subject.

        Raises:
            DataError: there is no such subject; the message lists those there are.
        """
        if name not in self.subjects:
            raise DataError(
                f"subject {name!r} is not in the manifest, which has {sorted(self.subjects)}"
            )
        return self.subjects[name]


def read_manifest(store: Store) -> Manifest:
    """Return the manifest of a store.

    Raises:
        DataError: there is none, or it is not one.
    """
    where = store.locate(MANIFEST)
    try:
        values = json.loads(store.read(MANIFEST))
    except ValueError:  # it may have come short: once more before it is reported
        try:
            values = json.loads(store.read(MANIFEST))
        except ValueError as error:
            raise DataError(f"{where}: not JSON: {error}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise DataError(f"{where}: expected a manifest of format {FORMAT!r}")
    try:
        manifest = from_dict(Manifest, values, partial=True)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    for path in _paths(manifest):
        if path.startswith("/") or ".." in path.split("/"):
            raise DataError(f"{where}: got the path {path!r}, expected one inside {store.url}")
    return manifest


def write_manifest(store: Store, manifest: Manifest) -> None:
    """Write the manifest; done last, it makes the shards visible."""
    text = json.dumps(dataclasses.asdict(manifest), indent=1)
    store.write(MANIFEST, text.encode())


def _paths(manifest: Manifest) -> Iterable[str]:
    for subject in manifest.subjects.values():
        yield subject.truth
        for splits in (subject.splits, *(targets.splits for targets in subject.targets.values())):
            for shards in splits.values():
                for shard in shards:
                    yield from (shard.path, shard.index)
