"""The service's own Prometheus metrics; Ray Serve exports others by itself."""

from jobs.on_ray.prometheus import Metric

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
SERVING = (
    Metric("mindeye_request_seconds", "histogram", "Latency.", ("route", "status"), bounds=SECONDS),
    Metric("mindeye_requests_in_flight", "gauge", "Requests in work at a gateway."),
    Metric("mindeye_requests_refused", "counter", "Refused requests.", ("reason",)),
    Metric("mindeye_replica_retries", "counter", "Calls repeated because their replica died."),
    Metric("mindeye_queue_length", "gauge", "Brains waiting or in computation.", ("task",)),
    Metric("mindeye_batch_size", "histogram", "Brains in a batch.", ("task",), SIZES),
    Metric("mindeye_compute_seconds", "histogram", "Time of a batch.", ("task",), bounds=SECONDS),
    Metric("mindeye_model_swap_failing", "gauge", "1 while the alias's model cannot be opened."),
    Metric("mindeye_model_swaps", "counter", "Attempts to load a new model.", ("outcome",)),
)
