"""A named package of this machine is registered by its name; the console only finds them."""

import io
import json

import pytest
from django.core.management import call_command

from aurora_web.registry import packages
from aurora_web.registry.models import Target
from aurora_web.registry.services import IncompatibleTarget, register_target


@pytest.fixture
def prepared(package):
    """The package, and beside it what is none."""
    (package.parent / "mine").mkdir()
    (package.parent / "broken").mkdir()
    (package.parent / "broken" / packages.MARKER).write_text("[1]")
    return package


def test_it_is_registered_by_its_name(db, prepared):
    target = register_target(path="small", actor="ada")
    assert (target.path, target.slug) == (str(prepared), "small")


def test_a_name_that_is_not_there_is_explained(db, prepared):
    missing = r"No package 'smollm2' is prepared on this machine; prepared: small\."
    with pytest.raises(IncompatibleTarget, match=missing):
        register_target(path="smollm2", actor="ada")


def test_without_any_package_none_is_offered(db, tmp_path, settings):
    settings.STATE_DIR = tmp_path
    assert packages.prepared() == []
    with pytest.raises(IncompatibleTarget, match="prepared: none"):
        register_target(path="small", actor="ada")


def test_the_api_takes_a_name(db, prepared, client, bearer):
    body = json.dumps({"path": "small"})
    answer = client.post("/api/v1/targets", body, content_type="application/json", **bearer("admin"))
    assert answer.status_code == 201, answer.content
    assert answer.json()["slug"] == "small"


def test_the_api_lists_them(db, prepared, client, bearer):
    answer = client.get("/api/v1/packages", **bearer("viewer"))
    expected = {"name": "small", "title": "A small model", "license": "Apache-2.0", "path": str(prepared)}
    assert answer.json() == [expected]


def test_the_wizard_offers_it(clients, prepared):
    page = clients["admin"].get("/targets/new/", follow=True).content.decode()
    assert '<option value="small">A small model</option>' in page
    assert "broken" not in page


def test_how_to_prepare_a_package_is_said(db, prepared, client, bearer, settings):
    answer = client.post("/api/v1/targets", {"path": "smollm2"}, content_type="application/json", **bearer("operator"))
    assert answer.status_code == 422
    command = f".venv/bin/python -m serving.model_sources smollm2 --out {settings.STATE_DIR}/models/smollm2"
    assert command in answer.json()["detail"]


def test_the_command_takes_a_name_twice(db, prepared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        said = io.StringIO()
        call_command("register", "small", stdout=said)
        assert said.getvalue() == "small\n"
    assert Target.objects.get().path == str(prepared)


def test_a_directory_of_that_name_is_one_where_there_is_no_such_package(db, prepared, checkpoint_dir, monkeypatch):
    monkeypatch.chdir(checkpoint_dir.parent)
    call_command("register", checkpoint_dir.name, stdout=io.StringIO())
    assert Target.objects.get().path == str(checkpoint_dir)
