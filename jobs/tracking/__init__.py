"""MLflow: a run's metrics, the sweep's runs and the registry of the best checkpoints.

MLflow is named here and nowhere else. In: the journal of a run folder, which is the truth. Out: the
same metrics in MLflow, each once; a registered model, and its folder again. Read `session.py`
first, then `record.py` (the run folder's note) and `mlflow_delivery.py` (the sending).
"""
