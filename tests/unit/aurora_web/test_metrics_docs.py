"""docs/metrics.md names what /metrics gives, and the Grafana dashboard uses only names and labels that exist."""

import json
import re

import pytest
from django.conf import settings

from aurora_web.health import DatabaseCollector

pytestmark = pytest.mark.django_db
DOCS = settings.BASE_DIR / "docs"


@pytest.fixture
def served():
    """{name: labels} of every metric, samples or not."""
    found = DatabaseCollector().collect()
    return {f.name + ("_total" if f.type == "counter" else ""): set(f._labelnames) for f in found}


def test_every_metric_is_documented_with_its_labels(served):
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", (DOCS / "metrics.md").read_text(), re.MULTILINE)
    assert {name: set(re.findall(r"\w+", labels)) for name, labels in rows} == served


def expressions():
    dashboard = json.loads((DOCS / "grafana" / "aurora.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield target["expr"], target["legendFormat"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"], ""


def test_the_dashboard_uses_only_what_exists(served):
    used = set()
    for expression, legend in expressions():
        names = set(re.findall(r"aurora_\w+", expression))
        assert names, expression
        assert names <= served.keys(), expression
        labels = set().union(*(served[name] for name in names))
        named = re.findall(r"(\w+)=~?\"", expression) + re.findall(r"\{\{(\w+)\}\}", legend)
        named += [label for group in re.findall(r"by \(([^)]*)\)", expression) for label in re.findall(r"\w+", group)]
        assert set(named) <= labels, (expression, legend)
        used |= names
    assert used == served.keys() - {"aurora_targets"}
