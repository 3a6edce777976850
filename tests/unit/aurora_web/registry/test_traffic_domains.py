"""The console names the domains that the traffic generator has."""

from aurora_web.registry import models, traffic_domains
from serving.traffic import plan
from serving.traffic.domains import registry


def test_the_console_knows_the_generators_domains():
    assert tuple(registry.REAL) == traffic_domains.REAL
    assert tuple(registry.POCKET) == traffic_domains.POCKET
    assert models.MAX_WEIGHT == plan.MAX_WEIGHT
