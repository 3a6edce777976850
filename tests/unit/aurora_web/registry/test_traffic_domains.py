"""The console names the domains that the traffic generator has."""

from aurora_web.registry import traffic_domains
from serving.traffic.domains import registry


def test_the_console_knows_the_generators_domains():
    assert tuple(registry.REAL) == traffic_domains.REAL
    assert tuple(registry.POCKET) == traffic_domains.POCKET
