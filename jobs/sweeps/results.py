"""End of a sweep: its report, the printed ranking, its best checkpoint in MLflow's registry."""

import hashlib
import json
import sys
import time

from rich.console import Console
from rich.table import Table

from jobs.recipes import config_flags, recipe
from jobs.sweeps.options import SWEEP
from jobs.sweeps.plan import Sweep, slots_of
from jobs.sweeps.records import TrialRecord, rank_trials, read_trials, rung_levels
from jobs.sweeps.report import write_sweep_report
from jobs.sweeps.search import SCORE, setting_importance
from jobs.sweeps.spaces import trial_config
from jobs.sweeps.table import format_settings
from jobs.sweeps.trial import TRIALS
from jobs.tracking.registry import end_parent, end_trials, register, set_alias
from mindeye_dist.data.manifest import MANIFEST
from mindeye_dist.errors import InputError
from mindeye_dist.runs.checkpoints import Checkpoints, file_digest
from mindeye_dist.runs.folder import TRACKED_RUN
from mindeye_dist.runs.journal import read_journal, write_atomically
from mindeye_dist.storage.store import Store
from mindeye_dist.strict import override

PRINTED = 12
"""Number of trials in the printed ranking."""


def open_session(sweep: Sweep) -> None:
    """Note the start of a session in `sweep.json`.

    A killed session has no end; it gets the time of its trials' newest row or event.
    """
    file = sweep.folder / SWEEP
    stored = json.loads(file.read_text())
    written = [path.stat().st_mtime for path in (sweep.folder / TRIALS).glob("*/*.jsonl")]
    for session in stored["sessions"]:
        session["ended"] = session["ended"] or max([session["begun"], *written])
    session = {"begun": time.time(), "ended": None, "slots": slots_of(sweep)}
    stored["sessions"].append(session)
    write_atomically(file, json.dumps(stored, indent=1))


def conclude(sweep: Sweep) -> None:
    """Write the report, print the ranking and register the best checkpoint.

    Raises:
        InputError: no trial has a score; the report has each trial's error.
    """
    file = sweep.folder / SWEEP
    stored = json.loads(file.read_text())
    stored["sessions"][-1]["ended"] = time.time()
    write_atomically(file, json.dumps(stored, indent=1))
    trials = read_trials(sweep.folder / TRIALS)
    order = rank_trials(trials)
    options = sweep.options
    levels = [sweep.config.training.epochs]
    if options.scheduler == "asha":
        levels = rung_levels(options.grace_epochs, options.reduction_factor, levels[0])
    command = champion_command(sweep, order[0]) if order else ""
    page = write_sweep_report(
        sweep.folder,
        trials,
        stored,
        levels=levels,
        importance=setting_importance(sweep.space, trials),
        command=command,
    )
    scores = {"val/score": order[0].best_point.score} if order and order[0].best_point else {}
    if sweep.parent_run:
        end_trials(sweep.config, tracked_runs(sweep, trials))
    end_parent(sweep.config, sweep.parent_run, scores, page)
    if not order:
        errors = sorted({trial.error for trial in trials if trial.error})
        raise InputError(f"{page}: no trial has a score: {'; '.join(errors) or 'no trial ran'}")
    print_ranking(order)
    print(f"to train the best again: {command}")
    publish(sweep, order[0])
    print(page)


def tracked_runs(sweep: Sweep, trials: list[TrialRecord]) -> dict[str, str]:
    """Return the trials' final states in MLflow's terms, by their MLflow runs."""
    files = {sweep.folder / TRIALS / t.name / TRACKED_RUN: t for t in trials}
    statuses = {"finished": "FINISHED", "failed": "FAILED"}
    return {
        file.read_text(): statuses.get(trial.state, "KILLED")
        for file, trial in files.items()
        if file.exists()
    }


def champion_command(sweep: Sweep, champion: TrialRecord) -> str:
    """Return the command that trains the champion again."""
    options = sweep.options
    config = trial_config(options.config, champion.params)
    config = override(config, {"run_dir": recipe(options.recipe).run_dir})
    more = " ".join(config_flags(options.recipe, config))
    return (
        f"python jobs/train.py --recipe {options.recipe} --run-dir {options.config.run_dir}-best "
        f"{more}".rstrip()
    )


def publish(sweep: Sweep, champion: TrialRecord) -> None:
    """Register the champion's best checkpoint with the alias, or print the reason why not."""
    options, config = sweep.options, sweep.config
    if not options.register_as or config.tracking.mlflow == "off":
        return
    folder = sweep.folder / TRIALS / champion.name
    checkpoint, tracked = Checkpoints(str(folder), 1).best(), folder / TRACKED_RUN
    if checkpoint is None or not tracked.exists():
        missing = "checkpoint" if checkpoint is None else "run in MLflow"
        print(f"not registered: trial {champion.name} has no {missing}", file=sys.stderr)
        return
    manifest = Store(config.data.url).read(MANIFEST)
    validations = [row for row in read_journal(str(folder)) if "val/score" in row]
    top = max(validations, key=lambda row: row["val/score"])
    tags = {
        **{k.replace("/", "."): v for k, v in top.items() if k.startswith("val/")},
        "manifest_sha256": hashlib.sha256(manifest).hexdigest(),
        "checkpoint_manifest_sha256": file_digest(checkpoint / "manifest.json"),
        "trial": champion.name,
    }
    try:
        version = register(config, tracked.read_text(), checkpoint, options.register_as, tags)
        name = set_alias(config, version, options.alias)
    except ValueError as error:
        print(f"not registered: {error}; use --resume to try again", file=sys.stderr)
        return
    print(f"registered: {name} ({version})")


def print_ranking(order: list[TrialRecord]) -> None:
    """Print the best trials."""
    table = Table("trial", "state", "epochs", SCORE, "at epoch", "settings", title="val retrieval")
    for trial in order[:PRINTED]:
        point = trial.best_point
        assert point is not None  # only trials with a score are ranked
        epochs = f"{trial.curve[-1].epoch}/{trial.epochs}"
        values = (f"{point.score:.3f}", str(point.epoch), format_settings(trial.params))
        table.add_row(trial.name, trial.state, epochs, *values)
    if len(order) > PRINTED:
        table.caption = f"{len(order) - PRINTED} more in the report"
    Console().print(table)
