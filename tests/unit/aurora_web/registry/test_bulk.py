"""Several registrations at once: from a file, through the API, by the command; checked alike, all of them or none."""

import io
import json
import re
from pathlib import Path
from uuid import uuid4

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.utils import timezone

from aurora_web.accounts.models import AuditEvent
from aurora_web.registry import bulk
from aurora_web.registry.bulk import BulkRefused, RegistrationFileError
from aurora_web.registry.models import AnnouncedReplica, Target

pytestmark = pytest.mark.django_db


@pytest.fixture
def entries(checkpoint_dir):
    path = str(checkpoint_dir)
    return [
        {"slug": "one", "path": path, "policy": {"approval": "manual", "trace_days": 3, "expected_domains": ["sql"]}},
        {"slug": "two", "source": "sglang", "path": path, "traffic_enabled": False},
    ]


def slugs():
    return sorted(Target.objects.values_list("slug", flat=True))


def post(client, headers, body, **more):
    data = json.dumps(body)
    return client.post("/api/v1/targets/bulk", data, content_type="application/json", **headers, **more)


def test_all_of_them(entries):
    made = bulk.register_all(bulk.check_all(entries, "ada"), "ada", "all")
    assert [target.slug for target in made] == ["one", "two"]
    one = Target.objects.get(slug="one")
    assert (one.approval, one.trace_days, one.expected_domains) == ("manual", 3, ["sql"])
    assert AuditEvent.objects.filter(action="target.register", actor="ada").count() == 2


def test_none_of_them_when_one_cannot_be(entries):
    entries[1]["path"] = "/nowhere"
    checked = bulk.check_all(entries, "ada")
    assert [entry.is_valid for entry in checked] == [True, False]
    with pytest.raises(BulkRefused):
        bulk.register_all(checked, "ada", "all")
    assert slugs() == []
    assert [target.slug for target in bulk.register_all(checked, "ada", "valid")] == ["one"]


def test_a_slug_that_is_taken_meanwhile_undoes_all(entries, checkpoint_dir):
    checked = bulk.check_all(entries, "ada")
    bulk.register_all(bulk.check_all([{"slug": "two", "path": str(checkpoint_dir)}], "bob"), "bob", "all")
    with pytest.raises(BulkRefused) as caught:
        bulk.register_all(checked, "ada", "all")
    assert "already" in caught.value.entries[0].problems[0]
    assert slugs() == ["two"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"slug": "one"}, "that of entry 1 too"),
        ({"slug": "new"}, "an address of the console"),
        ({"slug": 7}, "slug is 7. Expected text."),
        ({"pth": "/x"}, "pth is no field of a registration"),
        ({"traffic_enabled": "often"}, "traffic_enabled is 'often'. Expected true or false."),
        ({"policy": ["manual"]}, "Expected a mapping"),
        ({"policy": {"slug": "x"}}, "policy: slug is no setting"),
        ({"policy": {"trace_days": 0}}, "trace_days"),
        ({"policy": {"expected_domains": "sql"}}, "is no list of domains"),
        ({"policy": {"expected_domains": ["sql", "x" * 101]}}, 'xxx" is no domain: expected names of 1 to 100 char'),
        ({"policy": {"expected_domains": ["a", "a"]}}, "is there more than once"),
        ({"policy": {"expected_domains": ["a"] * 51}}, "there are 51 domains: expected at most 50"),
        ({"policy": {"approval": "perhaps"}}, "approval"),
        ({"draft_version": "nobody:3"}, "there is no version 'nobody:3'"),
        ({"replica": "x/y"}, "No server 'x/y' has reported itself"),
    ],
)
def test_what_is_wrong_with_an_entry_is_named(entries, change, named):
    _, second = bulk.check_all([entries[0], entries[1] | change], "ada")
    assert not second.is_valid
    assert named in " ".join(second.problems)


def test_every_problem_of_an_entry_is_named_at_once():
    """The policy's too, where the model itself cannot be used."""
    given = {"slug": "No", "path": "/nowhere", "policy": {"control_share": 7, "approval": "perhaps"}}
    [entry] = bulk.check_all([given], "ada")
    said = " ".join(entry.problems)
    for part in ("/nowhere does not exist", "The slug 'No'", "control_share: ", "approval: "):
        assert part in said
    [entry] = bulk.check_all([{"slug": "fine", "path": "/nowhere", "policy": {"min_gain": 0.02}}], "ada")
    assert len(entry.problems) == 1


WRONG = {
    "slug": "Ä", "path": "/nowhere", "pth": "x",
    "policy": {"min_gain": float("nan"), "control_share": -1, "nonsense": 1, "expected_domains": ["sql", "prosé"]},
}  # fmt: skip
ALL_WRONG = ("pth is no field", "The slug 'Ä'", "/nowhere does not exist", "control_share: ", "nonsense is no setting",
             "expected_domains: 'prosé': no request can have such a name")  # fmt: skip


def test_a_field_that_nobody_knows_hides_no_other_problem():
    [entry] = bulk.check_all([WRONG], "ada")
    assert [part for part in (*ALL_WRONG, "min_gain: nan") if part not in " ".join(entry.problems)] == []
    [entry] = bulk.check_all([{"slug": 7, "path": ["x"], "policy": {"control_share": -1}}], "ada")
    assert [problem.split()[0] for problem in entry.problems] == ["path", "slug", "control_share:"]  # no "give a path"


def test_every_problem_is_named_by_the_api_and_the_command_too(client, bearer, tmp_path, capsys):
    headers = bearer("admin")
    body = {**WRONG, "policy": WRONG["policy"] | {"min_gain": -5}}
    del body["pth"]  # a body's own fields are its schema's
    for answer in (
        client.post("/api/v1/targets", json.dumps(body), content_type="application/json", **headers),
        client.post("/api/v1/targets/check", json.dumps(body), content_type="application/json", **headers),
        post(client, headers, {"targets": [body]}),
    ):
        said = json.dumps(answer.json(), ensure_ascii=False)
        assert [part for part in (*ALL_WRONG[1:], "min_gain: ") if part not in said] == []
    file = tmp_path / "targets.yaml"
    file.write_text(f"targets: [{json.dumps(WRONG)}]".replace("NaN", ".nan"))
    with pytest.raises(CommandError):
        call_command("register", file=str(file))
    said = capsys.readouterr().err
    assert [part for part in (*ALL_WRONG, "min_gain: ") if part not in said] == []


def test_an_entry_that_is_none_is_named():
    [entry] = bulk.check_all(["just text"], "ada")
    assert "is no entry" in entry.problems[0]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("targets: [", "line 2, column 1: did not find expected node content"),
        ("- slug: x", "expected one key, targets:"),
        ("targets: {}", "expected a list of 1 to 100 targets, found a mapping"),
        ("targets: []", "found 0 of them"),
        ("targets: [{slug: a}]\nmore: 1", "found targets, more"),
        ("a: &x [1]\ntargets: [*x]", "anchors and aliases"),
        ("targets: !!python/object:os.system x", "line 1"),
        ("targets: " + "[" * 400_000, "line 1, column 41: lists and mappings are more than 32 deep"),
        ("- " * 200_000, "line 1, column 65: lists"),
        ("x" * 500_001, "split it"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(text, named):
    with pytest.raises(RegistrationFileError, match=re.escape(named)):
        bulk.read_yaml(text)


def test_the_example_of_the_docs_is_one(checkpoint_dir):
    text = (settings.BASE_DIR / "docs" / "registration.md").read_text()
    given = bulk.read_yaml(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    assert [entry["slug"] for entry in given] == ["chat", "large", "chat-canada"]
    for entry in given:
        bulk.arguments_of(entry)
    chat = given[0] | {"path": str(checkpoint_dir)}
    assert bulk.check_all([chat], "ada")[0].is_valid


def test_by_the_api_with_every_problem_of_every_entry(client, bearer, entries):
    answer = post(client, bearer("operator"), {"targets": [entries[0], {"path": "relative/path"}]})
    assert (answer.status_code, answer["content-type"]) == (422, "application/problem+json")
    [problem] = answer.json()["errors"]
    assert (problem["number"], problem["status"]) == (2, 422)
    assert "is not absolute" in problem["detail"]
    assert slugs() == []
    answer = post(client, bearer("operator"), {"targets": [entries[0], {"path": "relative/path"}], "mode": "valid"})
    assert answer.status_code == 201
    assert [target["slug"] for target in answer.json()["created"]] == ["one"]
    assert answer.json()["refused"][0]["number"] == 2
    assert post(client, bearer("operator"), {"targets": entries, "mode": "some"}).status_code == 422
    assert post(client, bearer("operator"), {"targets": []}).status_code == 422


def test_the_api_says_what_it_would_do_and_makes_nothing(client, bearer, entries):
    headers = bearer("operator")
    body = {"targets": [*entries, {"path": "relative/path"}], "dry_run": True}
    for mode, is_possible in (("all", False), ("valid", True)):
        answer = post(client, headers, body | {"mode": mode})
        assert (answer.status_code, answer.json()["is_possible"]) == (200, is_possible)
    told = answer.json()["entries"]
    assert [(e["number"], e["slug"], e["is_valid"], e["is_registered"]) for e in told] == [
        (1, "one", True, False), (2, "two", True, False), (3, "", False, False),
    ]  # fmt: skip
    assert "is not absolute" in told[2]["findings"][0]["says"]
    assert {"Memory", "First draft"} <= {finding["topic"] for finding in told[0]["findings"]}
    assert slugs() == []
    assert post(client, headers, {"targets": entries}).status_code == 201
    again = post(client, headers, {"targets": entries, "dry_run": True}).json()
    assert (again["is_possible"], [entry["is_registered"] for entry in again["entries"]]) == (True, [True, True])


def test_the_api_answers_a_second_time_without_doing_it_again(client, bearer, entries):
    headers = bearer("operator")
    first = post(client, headers, {"targets": entries}, HTTP_IDEMPOTENCY_KEY="k")
    second = post(client, headers, {"targets": entries}, HTTP_IDEMPOTENCY_KEY="k")
    assert (first.status_code, second.status_code) == (201, 201)
    assert second["Idempotency-Replayed"] == "true"
    assert second.json() == first.json()
    assert Target.objects.count() == 2


def test_the_api_checks_without_making(client, bearer, checkpoint_dir):
    body = json.dumps({"path": str(checkpoint_dir), "slug": "one", "policy": {"min_gain": "much"}})
    answer = client.post(
        "/api/v1/targets/check?tokens_per_second=2000", body, content_type="application/json", **bearer("operator")
    )
    found = {line["topic"]: line for line in answer.json()["findings"]}
    assert answer.json()["is_valid"] is False
    assert "min_gain" in found["Name and plan"]["says"]
    assert "at 2,000 tokens/s" in found["Hidden states"]["says"]
    assert "A server keeps 8 GiB of them unless AURORA_SEGMENT_QUOTA_MIB says else" in found["Hidden states"]["says"]
    assert slugs() == []


def write(folder: Path, entries) -> str:
    (folder / "targets.yaml").write_text(json.dumps({"targets": entries}))  # JSON is YAML
    return str(folder / "targets.yaml")


def test_by_the_command_line_twice(entries, tmp_path):
    for expected in ("one\ntwo\n", ""):
        said, told = io.StringIO(), io.StringIO()
        call_command("register", file=write(tmp_path, entries), stdout=said, stderr=told)
        assert said.getvalue() == expected
    assert "2 of 2 registered already" in told.getvalue()
    assert slugs() == ["one", "two"]


@pytest.fixture
def everywhere(checkpoint_dir, package):
    """An entry of each kind of origin; the server's slug is told with its report."""
    config = json.loads((checkpoint_dir / "config.json").read_text())
    AnnouncedReplica.objects.create(
        slug="mine", name="r1", engine="sglang", url="http://127.0.0.1:1", model_path=str(checkpoint_dir),
        aux_layer_ids=[1, 3, 4], config=config, seen_at=timezone.now(),
    )  # fmt: skip
    return [
        {"path": "small"},
        {"path": "small", "slug": "again"},
        {"path": str(checkpoint_dir), "slug": "folder"},
        {"source": "sglang", "model_id": "Qwen/Tiny", "config": config, "slug": "by-id"},
        {"source": "sglang", "replica": "mine/r1"},
    ]


def test_the_command_leaves_alone_what_it_has_registered_from_anywhere(everywhere, tmp_path):
    expected = ["again", "by-id", "folder", "mine", "small"]
    for told in ("", "5 of 5 registered already"):
        err = io.StringIO()
        call_command("register", file=write(tmp_path, everywhere), stdout=io.StringIO(), stderr=err)
        assert told in err.getvalue()
        assert slugs() == expected
    new = [*everywhere, {"path": "small", "slug": "third"}]
    call_command("register", file=write(tmp_path, new), stdout=io.StringIO(), stderr=io.StringIO())
    assert slugs() == [*expected, "third"]


def test_api_and_page_leave_it_alone_too(everywhere, client, clients, bearer):
    first = post(client, bearer("operator"), {"targets": everywhere}).json()
    assert (len(first["created"]), first["unchanged"]) == (5, [])
    again = post(client, bearer("operator"), {"targets": [*everywhere, {"path": "small", "slug": "third"}]})
    assert [target["slug"] for target in again.json()["created"]] == ["third"]
    assert again.json()["unchanged"] == ["small", "again", "folder", "by-id", "mine"]
    browser, path = clients["operator"], f"/targets/new/{uuid4()}/bulk/"
    given = {"text": json.dumps({"targets": [*everywhere, {"path": "small", "slug": "fourth"}]}), "mode": "all"}
    browser.post(path, given)
    page = browser.get(path).content.decode()
    assert "1 of 6 can be registered, 5 are registered already" in page
    assert "small is registered already, from " in page
    done = browser.post(path, given | {"do": "register"}, follow=True).content.decode()
    assert "Registered: fourth. There already: 5." in done


def test_another_model_of_the_same_slug_is_no_known_one(everywhere):
    bulk.register_all(bulk.check_all(everywhere, "ada"), "ada", "valid")
    for given in ({"path": "/nowhere", "slug": "small"}, {"source": "sglang", "path": "small"},
                  {"source": "sglang", "replica": "mine/r2", "slug": "by-id"}):  # fmt: skip
        [entry] = bulk.check_all([given], "ada")
        assert (entry.known, entry.is_valid) == (None, False)


def test_the_command_line_says_what_is_wrong_and_leaves_nothing(entries, tmp_path):
    file, told = write(tmp_path, [*entries, {"slug": "three", "path": "/nowhere"}]), io.StringIO()
    with pytest.raises(CommandError, match="because of three"):
        call_command("register", file=file, stdout=io.StringIO(), stderr=told)
    assert "/nowhere does not exist" in told.getvalue()
    assert slugs() == []
    with pytest.raises(CommandError, match="cannot be registered: three"):
        call_command("register", file=file, check=True, stdout=io.StringIO(), stderr=io.StringIO())
    call_command("register", file=file, only_valid=True, stdout=io.StringIO(), stderr=io.StringIO())
    assert slugs() == ["one", "two"]
    with pytest.raises(CommandError, match=r"nothing\.yaml"):
        call_command("register", file=str(tmp_path / "nothing.yaml"))


def test_one_target_is_checked_by_the_command_line(checkpoint_dir):
    told = io.StringIO()
    call_command("register", str(checkpoint_dir), check=True, slug="one", stderr=told)
    assert "Memory: Estimate: server" in told.getvalue()
    assert slugs() == []
    call_command(
        "register", str(checkpoint_dir), slug="one", trace_days=2, expected_domains=["sql"], stdout=io.StringIO()
    )
    assert Target.objects.get().trace_days == 2
