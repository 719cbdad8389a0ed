"""infra/monitoring: rules and their tests, and dashboards that show what is really exported."""

import ast
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from infra_files import INFRA, ROOT, spoiled, text

MONITORING = INFRA / "monitoring"
DASHBOARDS = sorted((MONITORING / "dashboards").glob("*.json"))
PROMTOOL = pytest.mark.system("promtool")
HISTOGRAM = ("_bucket", "_sum", "_count")


def promtool(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["promtool", *words], cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for path in MONITORING.glob("*.yml"):
        shutil.copy(path, tmp_path)
    return tmp_path


@PROMTOOL
def test_promtool_takes_the_files_and_the_rules_do_what_they_say(copy: Path) -> None:
    for words in (
        ["check", "rules", "rules.yml", "alerts.yml"],
        ["test", "rules", "rules_test.yml"],
        ["check", "config", "--syntax-only", "prometheus.yml"],
    ):
        done = promtool(copy, *words)
        assert done.returncode == 0, done.stdout + done.stderr


@PROMTOOL
def test_promtool_takes_the_kubernetes_configuration_but_for_its_discovery(copy: Path) -> None:
    """Debian's promtool is built without Kubernetes: the rest of the file is checked with static targets."""
    config = yaml.safe_load((copy / "prometheus-kubernetes.yml").read_text("utf-8"))
    found = config["scrape_configs"][0].pop("kubernetes_sd_configs")
    assert found == [
        {
            "role": "pod",
            "namespaces": {"names": ["mskray"]},
            "selectors": [{"role": "pod", "label": "ray.io/is-ray-node=yes"}],
        }
    ]
    (copy / "rest.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    done = promtool(copy, "check", "config", "--syntax-only", "rest.yml")
    assert done.returncode == 0, done.stdout + done.stderr


@PROMTOOL
@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("rules.yml", "sum by (source) (rate(", "sum by (source) rate("),
        ("rules.yml", "group_left ()", "group_right ()"),
        ("rules.yml", "/ on (run) group_left () sum", "* on (run) group_left () sum"),
        ("rules.yml", "ray_mskray_train_images_total", "ray_mskray_trained_images_total"),
        ("rules.yml", 'status=~"5.."', 'status=~"4.."'),
        ("rules.yml", "histogram_quantile(0.5,", "histogram_quantile(0.9,"),
        ("alerts.yml", "> 0.3", "> 0.4"),
        ("alerts.yml", "for: 15m", "for: 5m"),
        ("alerts.yml", "severity: critical", "severity: warning"),
        ("alerts.yml", 'ray_train_controller_state="RUNNING"', 'ray_train_controller_state="ERRORED"'),
    ],
)
def test_a_spoiled_rule_fails_its_test(file: str, old: str, new: str, copy: Path) -> None:
    (copy / file).write_text(spoiled((copy / file).read_text("utf-8"), old, new), encoding="utf-8")
    assert promtool(copy, "test", "rules", "rules_test.yml").returncode != 0


@PROMTOOL
@pytest.mark.parametrize(
    ("old", "new"), [("http_sd_configs", "http_sd"), ("credentials_file", "credential"), ("15s", "soon")]
)
def test_a_spoiled_configuration_is_refused(old: str, new: str, copy: Path) -> None:
    (copy / "prometheus.yml").write_text(spoiled(text("infra/monitoring/prometheus.yml"), old, new), encoding="utf-8")
    assert promtool(copy, "check", "config", "--syntax-only", "prometheus.yml").returncode != 0


def _rules() -> list[dict[str, Any]]:
    files = [yaml.safe_load((MONITORING / name).read_text("utf-8")) for name in ("rules.yml", "alerts.yml")]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def _queries(dashboard: dict[str, Any]) -> Iterator[str]:
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


def _metrics(expression: str) -> set[str]:
    """The names of metrics in an expression: words that neither call, group nor label."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]", " ", bare)
    bare = re.sub(r"\b(by|on|group_left|group_right|without|ignoring)\s*\([^)]*\)", " ", bare)
    words = re.findall(r"(?<![\w:])[a-zA-Z_][\w:]*(?![\w:]*\s*\()", bare)
    return set(words) - {"and", "or", "unless", "sum", "avg", "max", "min", "rate", "vector", "bool"}


def _declared() -> set[str]:
    """What mskray's own counters, gauges and histograms are called when Ray has exported them."""
    names: set[str] = set()
    for path in (ROOT / "mskray").rglob("*.py"):
        source = path.read_text("utf-8")
        if "ray.util.metrics" not in source and "metrics." not in source:
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                kind = getattr(node.func, "id", getattr(node.func, "attr", ""))
                name = f"ray_{node.args[0].value}"
                if kind == "Counter":
                    names.add(f"{name}_total")
                elif kind == "Gauge":
                    names.add(name)
                elif kind == "Histogram":
                    names |= {name + end for end in HISTOGRAM}
    return names


def _rays() -> set[str]:
    """What Ray exports: what its own dashboards read, and its gauges of nodes."""
    import ray

    package = Path(ray.__file__).parent / "dashboard" / "modules"
    sources = [*(package / "metrics" / "dashboards").glob("*.py"), package / "reporter" / "reporter_agent.py"]
    words = "\n".join(path.read_text("utf-8") for path in sources)
    return set(re.findall(r"\bray_\w+", words)) | {f"ray_{name}" for name in re.findall(r'Gauge\(\s*"(\w+)"', words)}


def test_every_metric_is_one_that_is_exported() -> None:
    rules = _rules()
    known = _declared() | _rays() | {rule["record"] for rule in rules if "record" in rule} | {"up"}
    used = {name for rule in rules for name in _metrics(rule["expr"])}
    for path in DASHBOARDS:
        dashboard = json.loads(path.read_text("utf-8"))
        used |= {name for query in _queries(dashboard) for name in _metrics(query)}
        for variable in dashboard["templating"]["list"]:
            used.add(re.fullmatch(r"label_values\((\w+), \w+\)", variable["query"]["query"])[1])  # type: ignore[index]
    assert used - known == set()
    assert {"ray_mskray_train_seconds_total", "ray_node_gpus_utilization", "ray_mskray_request_seconds_bucket"} <= used


def test_a_metric_that_nobody_exports_is_found() -> None:
    assert _metrics(
        'sum by (run) (rate(ray_mskray_x_total{run=~"a|b"}[5m])) / on (run) group_left () up or vector(0)'
    ) == {
        "ray_mskray_x_total",
        "up",
    }
    assert "ray_mskray_request_seconds_bucket" in _declared()
    assert "ray_mskray_prediction_errors_total" in _declared()
    assert "ray_mskray_requests_total" not in _declared() | _rays()


@PROMTOOL
@pytest.mark.parametrize("path", DASHBOARDS, ids=[path.stem for path in DASHBOARDS])
def test_every_query_of_a_dashboard_parses(path: Path, tmp_path: Path) -> None:
    def checked(queries: list[str]) -> int:
        rules = [{"record": f"query:{number}", "expr": each} for number, each in enumerate(queries)]
        (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "q", "rules": rules}]}), "utf-8")
        return promtool(tmp_path, "check", "rules", "queries.yml").returncode

    queries = [re.sub(r"\$\w+", "x", query) for query in _queries(json.loads(path.read_text("utf-8")))]
    assert len(queries) > 10
    assert checked(queries) == 0
    assert checked([*queries[:-1], queries[-1] + ")"]) != 0


@pytest.mark.parametrize("path", DASHBOARDS, ids=[path.stem for path in DASHBOARDS])
def test_a_dashboard_is_laid_out_and_reads_the_source_that_is_provisioned(path: Path) -> None:
    dashboard = json.loads(path.read_text("utf-8"))
    source = yaml.safe_load(text("infra/monitoring/grafana/datasources.yml"))["datasources"][0]
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        assert panel["datasource"]["uid"] == source["uid"]
        assert panel["title"]
        assert panel["description"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    named = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert {name for query in _queries(dashboard) for name in re.findall(r"\$(\w+)", query)} <= named


def test_the_dashboards_show_what_was_asked_for() -> None:
    shown = " ".join(query for path in DASHBOARDS for query in _queries(json.loads(path.read_text("utf-8"))))
    for name in ("ingest_images", "gpus_utilization", "train_phase", "request_seconds"):
        assert name in shown
