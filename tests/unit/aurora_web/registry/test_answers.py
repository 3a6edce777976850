"""What is answered about a launch, and about registrations that were refused, against the API's document."""

import pytest

from aurora_web.registry.launch import launch_payload
from aurora_web.registry.services import register_target
from tests.unit.aurora_web.documented import as_json

pytestmark = pytest.mark.django_db


def test_the_launch_of_a_server(ask, checkpoint_dir):
    target = register_target(path=str(checkpoint_dir), actor="ada", slug="demo", source="sglang")
    found = ask("GET", "/targets/{slug}/launch", query="?variant=cpu", slug="demo")
    assert found == as_json(launch_payload(target, "cpu", 1))
    assert found["environment"]["AURORA_TARGET_SLUG"] == "demo"


def test_what_was_refused_of_several(ask, checkpoint_dir):
    entries = [{"path": str(checkpoint_dir), "slug": "demo"}, {"path": "relative/path"}]
    found = ask("POST", "/targets/bulk", {"targets": entries, "mode": "valid"})
    assert ([each["number"] for each in found["refused"]], len(found["created"])) == ([2], 1)
