"""Alerts and dashboard use existing metrics and labels."""

import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import prometheus_client
import pytest
import ray
import yaml
from ray._private.telemetry.open_telemetry_metric_recorder import OpenTelemetryMetricRecorder

from jobs.on_ray.prometheus import TRAINING
from serve.prometheus import SERVING
from tests.cluster.manifests import CLUSTER

OURS = (*TRAINING, *SERVING)
RULES, SCRAPED = (CLUSTER / "prometheus" / name for name in ("rules.yaml", "prometheus.yaml"))
DASHBOARD = CLUSTER / "grafana" / "dashboard.json"
CLUSTER_LABEL = "ray_io_cluster"
OTHER_LABELS = {"le", "deployment", "severity", "error_code"}
"""Labels of Prometheus itself, of Ray Serve, and of the alerts."""
needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool is not there (Debian's package prometheus)"
)


@cache
def exported():
    """Return the names of our metrics as Ray's own recorder exports them."""
    recorder = OpenTelemetryMetricRecorder()
    for metric in OURS:
        if metric.kind == "histogram":
            recorder.register_histogram_metric(metric.name, "", list(metric.bounds))
        elif metric.kind == "counter":
            recorder.register_counter_metric(metric.name, "")
        else:
            recorder.register_gauge_metric(metric.name, "")
        recorder.set_metric_value(metric.name, dict.fromkeys(metric.tags, "a"), 1.0)
    text = prometheus_client.generate_latest().decode()
    return set(re.findall(r"^(ray_mindeye_\w+)", text, re.MULTILINE))


@cache
def of_ray():
    """Return names of metrics in the source of Ray Serve and of Ray's node reporter."""
    package = Path(ray.__file__).parent
    files = [
        *(package / "serve").rglob("*.py"),
        *(package / "dashboard/modules/reporter").glob("*"),
    ]
    names = re.compile(r'"((?:serve|node)_[\w{}]+)"')
    return {
        f"ray_{name.replace('{protocol_name}', 'http')}"
        for file in files
        if file.suffix == ".py"
        for name in names.findall(file.read_text())
    }


def metrics_in(expression):
    return set(re.findall(r"\bray_\w+", expression)) - {CLUSTER_LABEL}


def labels_in(expression):
    grouped = re.findall(r"\bby \(([^)]*)\)", expression)
    matched = re.findall(r"[{,]\s*(\w+)\s*[=!]", expression)
    return {label.strip() for group in grouped for label in group.split(",")} | set(matched)


def exists(metric):
    plain = re.sub(r"_(total|bucket|count|sum)$", "", metric)
    return metric in exported() or metric in of_ray() or plain in of_ray()


def alerts():
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels():
    found = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def expressions():
    drawn = [target["expr"] for panel in panels() for target in panel["targets"]]
    return [rule["expr"] for rule in alerts()] + drawn


def promtool(*words, **options):
    done = subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, **options)
    return done.returncode, done.stdout + done.stderr


def test_every_metric_exists():
    """Oracles: the export of our tables by Ray's recorder; the source of Ray."""
    for expression in expressions():
        assert metrics_in(expression)
        for metric in metrics_in(expression):
            assert exists(metric), metric


def test_unknown_names_are_found():
    """Oracle: mistakes: a counter's bare name, a gauge as a counter, Ray's with a typo."""
    for metric in ("ray_mindeye_read_retries", "ray_mindeye_train_step_total", "ray_node_mem_usd"):
        assert not exists(metric)


def test_every_label_exists():
    """Oracle: tags of our tables, and labels added by the scrape config."""
    (scraped,) = yaml.safe_load(SCRAPED.read_text())["scrape_configs"]
    given = {each.get("target_label") for each in scraped["relabel_configs"]}
    known = {tag for metric in OURS for tag in metric.tags} | given | OTHER_LABELS
    legends = " ".join(t["legendFormat"] for panel in panels() for t in panel["targets"])
    summaries = " ".join(str(rule["annotations"]) for rule in alerts())
    shown = set(re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", legends + summaries))
    assert CLUSTER_LABEL in given
    for expression in expressions():
        assert labels_in(expression) <= known
    assert shown - {"GpuIndex"} <= known  # Ray's, of each GPU


def test_every_metric_is_drawn():
    """Oracle: the tables; a metric that nobody looks at is not worth its cost."""
    drawn = {name for panel in panels() for t in panel["targets"] for name in metrics_in(t["expr"])}
    for metric in OURS:
        assert any(name.startswith(f"ray_{metric.name}") for name in drawn), metric.name


def test_every_panel_has_a_title_a_query_and_a_place_of_its_own():
    """Oracle: the grid of Grafana, 24 wide."""
    found = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in found}) == len(found)
    taken = set()
    for panel in found:
        place = panel["gridPos"]
        across, down = (
            range(place["x"], place["x"] + place["w"]),
            range(place["y"], place["y"] + place["h"]),
        )
        cells = {(x, y) for x in across for y in down}
        assert not cells & taken
        assert max(across) < 24
        taken |= cells
        assert panel["title"]
        assert panel["type"] == "row" or all(each["expr"] for each in panel["targets"])
        assert panel["type"] == "row" or panel["targets"]


def test_alerts_have_severity_and_summary():
    """Oracle: the rules' file."""
    assert len({rule["alert"] for rule in alerts()}) == len(alerts()) > 0
    for rule in alerts():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]


@needs_promtool
def test_prometheus_takes_the_rules_and_they_fire():
    """Oracle: promtool, on the series of rules.test.yaml."""
    assert promtool("check", "rules", RULES) == (0, promtool("check", "rules", RULES)[1])
    code, said = promtool("test", "rules", Path(__file__).with_name("rules.test.yaml"))
    assert code == 0, said


@needs_promtool
def test_prometheus_takes_the_dashboard_queries(tmp_path):
    """Oracle: promtool, with Grafana's variables filled in; and a planted mistake."""
    filled = [e.replace("$cluster", ".*").replace("$__rate_interval", "1m") for e in expressions()]
    for queries, fits in ((filled, True), ([*filled, "sum(ray_node_mem_used"], False)):
        rules = [{"record": f"query:{n}", "expr": query} for n, query in enumerate(queries)]
        path = tmp_path / "queries.yaml"
        path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
        code, said = promtool("check", "rules", path)
        assert (code == 0) is fits, said


@needs_promtool
def test_prometheus_takes_the_scraping(tmp_path):
    """Oracle: promtool; the discovery of pods is replaced, as Debian builds promtool without it."""
    config = yaml.safe_load(SCRAPED.read_text())
    (scraped,) = config["scrape_configs"]
    (pods,) = scraped.pop("kubernetes_sd_configs")
    assert pods == {"role": "pod", "namespaces": {"names": ["mindeye"]}}
    scraped["static_configs"] = [{"targets": ["localhost:8080"]}]
    shutil.copy(RULES, tmp_path)
    path = tmp_path / "prometheus.yaml"
    path.write_text(yaml.safe_dump(config))
    code, said = promtool("check", "config", path)
    assert code == 0, said
