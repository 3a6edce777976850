"""What the page of open alerts offers to whom."""

import pytest
from django.utils import timezone

from aurora_web.rollouts.models import Alert

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(("role", "may_roll_back"), [("viewer", False), ("operator", True), ("admin", True)])
def test_a_roll_back_is_offered_to_those_who_may(clients, target, role, may_roll_back):
    since = timezone.now()
    Alert.objects.create(target=target, rule="speedup_below_one", state="firing", detail="slow", since=since)
    Alert.objects.create(target=target, rule="replica_behind", state="firing", detail="late", since=since)
    page = clients[role].get("/alerts/").content.decode()
    main = page.split("<main")[1]
    assert "slow" in main
    assert ('href="/targets/demo/rollback/"' in main) is may_roll_back
    assert 'href="/targets/demo/#replicas"' in main
