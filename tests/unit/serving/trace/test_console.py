"""A token on its way to the console: sent where it can be, and in no message where it cannot."""

from __future__ import annotations

import pytest

from serving import config as engine_settings
from serving.trace.console import ConsoleClient
from serving.traffic import config as traffic_settings


def test_a_token_is_sent_without_the_line_end_of_its_file(console):
    ConsoleClient(console.url, "secret\n").post("ingest/counts", b"{}")
    assert console.tokens == {"Bearer secret"}


@pytest.mark.parametrize("value", ["sek\nret", "sekrét"])
def test_a_token_that_cannot_be_sent_is_refused_and_not_shown(console, tmp_path, value):
    (tmp_path / "config.json").touch()
    environment = {"AURORA_REPLICA_TOKEN": value, "AURORA_TARGET": str(tmp_path), "AURORA_TARGET_SLUG": "demo"}
    loads = [
        lambda: ConsoleClient(console.url, value),
        lambda: engine_settings.load([], environment),
        lambda: traffic_settings.load([], environment),
    ]
    for load in loads:
        with pytest.raises(ValueError, match="its value is not shown") as raised:
            load()
        assert value not in str(raised.value)
    assert "AURORA_REPLICA_TOKEN" in str(raised.value)
