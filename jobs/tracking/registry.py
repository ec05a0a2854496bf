"""MLflow's side of a sweep: the run that its trials hang on, and the registry of its champions."""

import logging
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

from jobs.command import SCHEME, absolute_path, cache_folder
from jobs.tracking.mlflow_delivery import experiment_id
from jobs.tracking.record import tracking_uri
from mindeye_dist.config import ExperimentConfig
from mindeye_dist.errors import CheckpointError, InputError
from mindeye_dist.runs.checkpoints import MANIFEST, file_digest

log = logging.getLogger(__name__)
ARTEFACT, DIGITS = "checkpoint", 12
REGISTRY_ERRORS = (MlflowException, OSError, BotoCoreError, ClientError, Boto3Error)
"""Exceptions raised by MLflow, its server and its artefact store, S3 included."""


def start_parent(config: ExperimentConfig, params: Mapping[str, Any]) -> str:
    """Begin the sweep's run in MLflow and return its id; empty where tracking is off or fails."""
    if config.tracking.mlflow == "off":
        return ""
    uri = tracking_uri(config)
    try:
        client = MlflowClient(uri)
        run = client.create_run(
            experiment_id(client, config, uri),
            run_name=Path(config.run_dir).name,
            tags={"mindeye.sweep": "yes"},
        )
        pairs = [Param(key, str(value)) for key, value in params.items()]
        client.log_batch(run.info.run_id, params=pairs)
    except REGISTRY_ERRORS as error:
        log.warning("mlflow: %s: %s; the sweep goes on without it", uri, error)
        return ""
    return str(run.info.run_id)


def end_parent(
    config: ExperimentConfig, run_id: str, metrics: Mapping[str, float], page: Path
) -> None:
    """End the sweep's run in MLflow with its figures and its page."""
    if not run_id:
        return
    uri, now = tracking_uri(config), int(time.time() * 1000)
    try:
        client = MlflowClient(uri)
        client.log_batch(run_id, metrics=[Metric(k, v, now, 0) for k, v in metrics.items()])
        client.log_artifact(run_id, str(page))
        client.set_terminated(run_id, "FINISHED")
    except REGISTRY_ERRORS as error:
        log.warning("mlflow: %s: %s; the report has what it did not take", uri, error)


def end_trials(config: ExperimentConfig, statuses: Mapping[str, str]) -> None:
    """End the runs in MLflow of trials that were stopped or killed and could not say so.

    Args:
        config: says where MLflow is.
        statuses: in MLflow's words, by run.
    """
    uri = tracking_uri(config)
    try:
        client = MlflowClient(uri)
        for run_id, status in statuses.items():
            if client.get_run(run_id).info.status == "RUNNING":
                client.set_terminated(run_id, status)
    except REGISTRY_ERRORS as error:
        log.warning("mlflow: %s: %s; stopped trials look as if they ran", uri, error)


def register(
    config: ExperimentConfig, run_id: str, checkpoint: Path, name: str, tags: Mapping[str, Any]
) -> str:
    """Put a checkpoint into the registry as a new version, and return `models:/NAME/VERSION`.

    Args:
        config: says where MLflow is.
        run_id: of the run in MLflow that made it, which keeps the files.
        checkpoint: its folder.
        name: of the registered model.
        tags: of the version.

    Raises:
        InputError: MLflow did not take it.
    """
    uri = tracking_uri(config)
    try:
        client = MlflowClient(uri)
        # By its content: a run that goes on may be registered again.
        artefact = f"{ARTEFACT}-{file_digest(checkpoint / MANIFEST)[:DIGITS]}"
        client.log_artifacts(run_id, str(checkpoint), artefact)
        source = f"{client.get_run(run_id).info.artifact_uri}/{artefact}"
        create_model(client, name)
        texts = {key: str(value) for key, value in tags.items()}
        version = client.create_model_version(name, source, run_id=run_id, tags=texts)
    except REGISTRY_ERRORS as error:
        raise InputError(f"mlflow: {uri}: {error}") from error
    return f"{SCHEME}{name}/{version.version}"


def create_model(client: MlflowClient, name: str) -> None:
    """Create the registered model unless it exists."""
    try:
        client.create_registered_model(name)
    except MlflowException as error:  # also where a slow server got the same request twice
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise


def set_alias(config: ExperimentConfig, version: str, alias: str) -> str:
    """Give `models:/NAME/VERSION` an alias, and return `models:/NAME@ALIAS`.

    Raises:
        InputError: MLflow did not take it.
    """
    name, number = version.removeprefix(SCHEME).rsplit("/", 1)
    try:
        MlflowClient(tracking_uri(config)).set_registered_model_alias(name, alias, number)
    except REGISTRY_ERRORS as error:
        raise InputError(f"mlflow: {tracking_uri(config)}: {error}") from error
    return f"{SCHEME}{name}@{alias}"


@dataclass(frozen=True)
class Registered:
    """A version of a registered model, and where its files are."""

    name: str
    number: str
    source: str
    run_id: str


def resolve(model: str, mlflow: str) -> Path:
    """Return the checkpoint's folder of `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Args:
        model: its name.
        mlflow: URL of the tracking server; empty is MLFLOW_TRACKING_URI, or else the local runs'.

    Raises:
        CheckpointError: there is no such model, or it cannot be fetched.
    """
    return fetch(look_up(model, mlflow), mlflow)


def look_up(model: str, mlflow: str) -> Registered:
    """Return the version that a name in the registry leads to now.

    Raises:
        CheckpointError: there is none.
    """
    uri = registry_uri(mlflow)
    name, at, alias = model.removeprefix(SCHEME).partition("@")
    try:
        client = MlflowClient(uri)
        if at:
            version = client.get_model_version_by_alias(name, alias)
        else:
            version = client.get_model_version(*name.rsplit("/", 1))
    except (*REGISTRY_ERRORS, TypeError) as error:
        raise CheckpointError(f"{model}: not in the registry of {uri}: {error}") from error
    return Registered(
        str(version.name), str(version.version), str(version.source), str(version.run_id)
    )


def registry_uri(mlflow: str) -> str:
    """Return the tracking server's URL that is meant."""
    return mlflow or os.environ.get(
        "MLFLOW_TRACKING_URI", f"sqlite:///{absolute_path('runs/mlflow.db')}"
    )


def fetch(version: Registered, mlflow: str) -> Path:
    """Return the checkpoint's folder of a version.

    One that MLflow keeps elsewhere is copied here once; its digests are checked when it is opened.
    What it is called there ends with the digest of its manifest, which must be what is found.

    Raises:
        CheckpointError: it cannot be fetched, or is another one.
    """
    model, uri = f"{SCHEME}{version.name}/{version.number}", registry_uri(mlflow)
    try:
        if version.source.startswith("file:"):
            return checked(Path(unquote(urlparse(version.source).path)), model)
        target = cache_folder() / "models" / version.run_id
        found = target / version.source.rsplit("/", 1)[-1]
        if found.exists():
            return checked(found, model)
        target.mkdir(parents=True, exist_ok=True)
        # What was cut off in mid-download must not pass for the whole the next time.
        with tempfile.TemporaryDirectory(dir=target) as partial:
            fetched = Path(download_artifacts(version.source, dst_path=partial, tracking_uri=uri))
            if not found.exists():  # another process may have been faster
                fetched.rename(found)
        return checked(found, model)
    except REGISTRY_ERRORS as error:
        raise CheckpointError(f"{model}: cannot be had from {uri}: {error}") from error


def checked(folder: Path, model: str) -> Path:
    """Return a checkpoint's folder whose manifest is the one that was registered.

    Raises:
        CheckpointError: it is another one.
        OSError: there is none.
    """
    found, registered = file_digest(folder / MANIFEST)[:DIGITS], folder.name.rsplit("-", 1)[-1]
    if found != registered:
        raise CheckpointError(
            f"{model}: {folder} holds the manifest {found}, registered was {registered}"
        )
    return folder
