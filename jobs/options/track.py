"""Options of late tracking: the run, and the tracking server."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where to, if not where the run was to be tracked."""

    mlflow: str = ""
    """Tracking server URL; `sqlite` is a data base beside the run folder."""
    experiment: str = ""


@dataclass(frozen=True, kw_only=True)
class Track:
    """Send MLflow the metrics of a run that it does not have."""

    run_dir: str = "runs/demo"
    """Folder of the run, or of a trial."""
    tracking: Server = field(default_factory=Server)
