"""The folder of a run: the name of every file and folder in it."""

JOURNAL = "journal.jsonl"


SUMMARY = "summary.json"


TRACKED_RUN = "mlflow_run.txt"
