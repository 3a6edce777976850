"""What is answered about tokens, against the API's document."""

import pytest

from aurora_web.accounts.models import ApiToken

pytestmark = pytest.mark.django_db


def test_a_new_token_is_shown_with_its_secret(ask):
    made = ask("POST", "/tokens", {"name": "ci", "role": "viewer"})
    assert (made["id"], made["scopes"]) == (ApiToken.objects.get(name="ci").pk, ["read"])
    assert made["token"].startswith("aur_")
