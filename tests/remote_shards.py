"""Not a test: shards copied into a store, and a training loader that reads them."""

from pathlib import Path

from mindeye_dist.config import DataConfig, TrainingConfig
from mindeye_dist.data.dataset import Dataset
from mindeye_dist.data.loader import TrainLoader
from mindeye_dist.data.manifest import read_manifest
from mindeye_dist.storage.store import Store

BATCH = 32


def copy(folder: Path, store: Store) -> None:
    """Copy a folder into a store."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            store.write(str(path.relative_to(folder)), path.read_bytes())


def open_loader(config: DataConfig) -> TrainLoader:
    """Return a training loader of the train split and its targets."""
    store = Store(config.url)
    sets = {"clip_tokens": config.targets}
    dataset = Dataset(store, read_manifest(store), config, "train", sets)
    return TrainLoader(dataset, config, TrainingConfig(global_batch_size=BATCH))
