"""Late tracking: the journal of a run -> MLflow, without the metrics that MLflow has."""

import sys
from dataclasses import replace

from jobs.command import local_path
from jobs.options.track import Track
from jobs.tracking.record import (
    RUNNING,
    Tracking,
    new_tracking,
    read_tracking,
    tracking_uri,
    write_tracking,
)
from mindeye_dist.errors import InputError
from mindeye_dist.runs.checkpoints import Checkpoints, read_config
from mindeye_dist.runs.folder import JOURNAL, TRACKING
from mindeye_dist.runs.journal import read_journal, read_summary
from mindeye_dist.strict import check, override


def track(options: Track) -> str:
    """Send the metrics that MLflow does not have; return a line for the terminal.

    Raises:
        InputError: there is no such run, no tracking server is known, or MLflow fails.
    """
    tracking, home = known_run(options), options.tracking.mlflow
    uri = tracking_uri(override(tracking.config, {"tracking.mlflow": home} if home else {}))
    check(uri != "off", "tracking.mlflow", uri, "a server's URL or `sqlite`: the run had none")
    from jobs.tracking.mlflow_delivery import (  # MLflow takes seconds to import
        DELIVERY_ERRORS,
        Delivery,
    )

    delivery = Delivery(tracking, uri)
    try:
        delivery.open()
        delivery.send()
        delivery.end(tracking.status, tracking.ended)
    except DELIVERY_ERRORS as error:
        raise InputError(f"mlflow: {uri}: {error}; the same command goes on") from error
    finally:
        delivery.close()
    return f"{delivery.sent} metrics sent: run {delivery.run_id} at {uri} has them all"


def known_run(options: Track) -> Tracking:
    """Return the run's record for MLflow; that of a killed run gets a final status.

    Raises:
        InputError: there is no journal, or nothing that tells the run's settings.
    """
    run_dir = local_path(options.run_dir, "run_dir")
    rows = read_journal(run_dir)
    check(bool(rows), "run_dir", run_dir, f"a run's folder, with rows in {JOURNAL}")
    known = read_tracking(run_dir)
    if known is None:  # it was not tracked
        checkpoint = Checkpoints(run_dir, 1).newest()
        if checkpoint is None:
            raise InputError(f"{run_dir}: has neither {TRACKING} nor a good checkpoint")
        config = override(read_config(checkpoint), {"run_dir": run_dir})
        known = new_tracking(config, "", rows[0]["time"])
        write_tracking(known)
    changes = {"run_dir": run_dir}  # it may have been moved
    if options.tracking.experiment:
        changes["tracking.experiment"] = options.tracking.experiment
    known = replace(known, config=override(known.config, changes))
    if known.status != RUNNING:
        return known
    whole = rows[-1]["step"] == read_summary(run_dir).get("steps")
    return replace(known, status="FINISHED" if whole else "KILLED", ended=rows[-1]["time"])


def run(options: Track) -> None:
    """Send."""
    print(track(options), file=sys.stderr)
