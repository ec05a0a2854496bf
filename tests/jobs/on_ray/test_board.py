"""The handler by which a worker's log reaches the board."""

import logging
from types import SimpleNamespace

import pytest

from jobs.on_ray.board import BoardHandler


@pytest.mark.parametrize(
    ("name", "level", "posted"),
    [
        ("jobs.worker", logging.INFO, ["building the model"]),
        ("jobs.worker", logging.DEBUG, []),
        ("mindeye_dist.data.loader", logging.INFO, []),
        ("mindeye_dist.data.loader", logging.WARNING, ["building the model"]),
        ("botocore", logging.WARNING, []),
    ],
)
def test_stages_and_warnings_are_posted(name, level, posted, caplog):
    caplog.set_level(logging.INFO, logger=name)
    said = []
    handler = BoardHandler(SimpleNamespace(say=SimpleNamespace(remote=said.append)))
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        logger.log(level, "building the %s", "model")
    finally:
        logger.removeHandler(handler)
    assert said == posted
