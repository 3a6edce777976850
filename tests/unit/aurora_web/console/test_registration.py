"""The registration wizard and the page for several targets: kept, checked, started once, and nobody else's."""

import json
import re
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlencode
from uuid import UUID

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.utils import timezone

from aurora_web.accounts.models import AuditEvent
from aurora_web.accounts.services import authenticate_token
from aurora_web.registry import announcements, registration_drafts, tasks
from aurora_web.registry.models import RegistrationDraft, SpeculatorVersion, Target
from aurora_web.rollouts import services
from speculators.records import Announcement
from tests.unit.serving.tiny import make_draft

pytestmark = pytest.mark.django_db
DRAFT = "11111111-1111-4111-8111-111111111111"


def text(answer):
    return " ".join(answer.content.decode().split())


def at(step, draft=DRAFT):
    return f"/targets/new/{draft}/{step}/"


def refused(client, step, given):
    """The page of the step to which its form leads back, with the reasons; it can be reloaded."""
    answer = client.post(at(step), given)
    assert (answer.status_code, answer["location"]) == (302, at(step))
    return text(client.get(at(step)))


def plan(**changes):
    """What the plan's form sends; the defaults of the page, with changes."""
    plain = {
        "slug": "", "display_name": "", "start": "random", "draft_path": "", "draft_version": "",
        "approval": "automatic", "approvers": "operator", "may_approve_own": "on", "expected_domains": "",
        "trace_days": "", "min_gain": "0.01", "domain_tolerance": "0.1", "min_held_out_traces": "4",
        "slice_seconds": "8", "control_share": "0.02", "max_lookahead": "4", "min_accept_length": "0",
        "canary_share": "0", "canary_minutes": "5", "canary_min_requests": "50",
    }  # fmt: skip
    return plain | changes


@pytest.fixture
def operator(clients):
    return clients["operator"]


@pytest.fixture
def config(checkpoint_dir):
    return (checkpoint_dir / "config.json").read_text()


@pytest.fixture
def sourced(operator, checkpoint_dir):
    """The wizard after step 1, with a directory for the embedded engine."""
    assert operator.post(at("source"), {"source": "embedded", "path": str(checkpoint_dir)}).status_code == 302
    return operator


def test_through_all_steps(operator, checkpoint_dir):
    first = operator.get("/targets/new/")["location"]
    draft = re.search(r"/targets/new/([0-9a-f-]{36})/source/", first)[1]
    answer = operator.post(at("source", draft), {"source": "embedded", "path": str(checkpoint_dir)})
    assert answer["location"] == at("check", draft)
    page = text(operator.get(at("check", draft)))
    assert "Compatibility check passed: LlamaForCausalLM, 8 layers" in page
    for line in (
        "Architecture",
        "Vocabulary",
        "Chat template",
        "Aux layers",
        "Draft shape",
        "Memory",
        "Hidden states",
        "Engine version",
    ):
        assert f'<th scope="row">{line}</th>' in page
    given = plan(slug="mine", display_name="My model", approval="manual", expected_domains="sql, prose", trace_days="3")
    assert operator.post(at("plan", draft), given)["location"] == at("review", draft)
    page = text(operator.get(at("review", draft)))
    for said in (
        "My model (mine) is registered",
        "random weights",
        "waits for a person",
        "sql, prose have rows",
        "3 days",
    ):
        assert said in page
    assert not Target.objects.exists()
    answer = operator.post(at("review", draft))
    assert answer["location"] == "/targets/mine/"
    target = Target.objects.get()
    assert (target.name, target.approval, target.expected_domains, target.trace_days) == (
        "My model", "manual", ["sql", "prose"], 3,
    )  # fmt: skip
    assert AuditEvent.objects.get(action="target.register").actor == "operator"


def test_a_second_click_starts_nothing(sourced):
    assert sourced.post(at("review"))["location"] == "/targets/tiny/"
    assert sourced.post(at("review"))["location"] == "/targets/tiny/"
    for step in ("source", "check", "plan", "review"):
        assert sourced.get(at(step))["location"] == "/targets/tiny/"
    assert Target.objects.count() == 1


def seen_on(page):
    return re.search(r'name="seen" value="(\w+)"', page)[1]


def test_what_another_tab_has_changed_is_read_again_before_it_is_registered(sourced):
    sourced.post(at("plan"), plan(slug="tab-one"))
    seen = seen_on(text(sourced.get(at("review"))))
    sourced.post(at("plan"), plan(slug="tab-two"))
    assert sourced.post(at("review"), {"seen": seen})["location"] == at("review")
    assert not Target.objects.exists()
    page = text(sourced.get(at("review")))
    assert "Nothing was registered: the plan is not the one that you read: it was changed in another tab." in page
    assert "tab-two is registered" in page
    assert sourced.post(at("review"), {"seen": seen_on(page)})["location"] == "/targets/tab-two/"


def test_what_changes_between_reading_and_locking_is_not_registered(operator, users, sourced):
    read = registration_drafts.find_draft(users["operator"], UUID(DRAFT))
    sourced.post(at("plan"), plan(slug="other"))
    with pytest.raises(registration_drafts.DraftChanged, match="another tab"):
        registration_drafts.start(read, "operator", {}, registration_drafts.digest(read))


def test_an_empty_source_is_called_empty(operator):
    said = refused(operator, "source", {"source": "embedded", "path": ""})
    assert "No directory is given. Give the directory with config.json" in said


def test_what_was_typed_is_kept_right_or_wrong(operator):
    said = refused(operator, "source", {"source": "embedded", "path": "/nowhere"})
    for page in (said, text(operator.get(at("source")))):  # and a reload, or another tab
        assert "/nowhere does not exist. Give the directory with config.json" in page
        assert 'value="/nowhere"' in page
    assert "/nowhere does not exist" in text(operator.get(at("check")))


def test_what_is_being_typed_is_saved_and_checked(operator, checkpoint_dir):
    save = at("save/source")
    assert text(operator.post(save, {"source": "embedded", "path": ""})) == ""
    assert text(operator.post(save, {"source": "reported"})) == ""  # not chosen yet is no mistake yet
    assert "1 problem" in text(operator.post(save, {"source": "embedded", "path": "relative"}))
    assert 'value="relative"' in text(operator.get(at("source")))
    good = operator.post(save, {"source": "embedded", "path": str(checkpoint_dir)})
    assert "Compatibility check passed: LlamaForCausalLM, 8 layers" in text(good)
    said = text(operator.post(at("save/plan"), plan(slug="Bad Slug")))
    assert "The slug &#x27;Bad Slug&#x27; cannot be used" in said
    assert 'value="Bad Slug"' in text(operator.get(at("plan")))
    assert operator.post(at("save/review"), {}).status_code == 404


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model_id": "acme/tiny"}, "paste the model&#x27;s config.json"),
        ({"model_id": "acme/tiny", "config": "{"}, "This is not valid JSON"),
        ({"model_id": "acme/tiny", "config": "[" * 100_000}, "This is not valid JSON"),
        ({"model_id": "acme/tiny", "config": "[]"}, "expected an object"),
        ({}, "either a checkpoint directory or a model id"),
        ({"source": "vllm"}, "vllm is not one of the available choices"),
        ({"source": "reported"}, "No server is chosen"),
        ({"source": "reported", "replica": "x/y"}, "No server &#x27;x/y&#x27; has reported itself"),
    ],
)
def test_a_source_that_cannot_be_used_is_named(operator, given, said):
    typed = {"source": "sglang", "path": "", "model_id": "", "config": ""} | given
    assert said in refused(operator, "source", typed)


def test_a_model_id_with_its_config_as_a_file(operator, config):
    file = SimpleUploadedFile("config.json", config.encode())
    given = {"source": "sglang", "path": "", "model_id": "acme/Tiny-1B", "config": "", "config_file": file}
    assert operator.post(at("source"), given)["location"] == at("check")
    said = text(operator.get(at("check")))
    for expected in ("layers 1, 3 and 4 of 8", "max_position_embeddings is 128", "0.5.21", "0.25 KiB per token"):
        assert expected in said
    assert operator.post(at("review"))["location"] == "/targets/tiny-1b/#launch"


def test_the_load_of_the_estimate_is_in_the_address(sourced):
    assert "2.56 MB/s at 10,000 tokens/s" in text(sourced.get(at("check") + "?tokens_per_second=10000"))
    answer = sourced.get(at("check") + "?" + urlencode({"tokens_per_second": "many"}))
    assert answer.status_code == 422
    assert "&#x27;many&#x27; is no rate" in text(answer)
    for odd in ("0", "-1", "nan", "inf"):
        assert sourced.get(at("check") + f"?tokens_per_second={odd}").status_code == 422


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"start": "import"}, "It is empty: give the directory"),
        ({"start": "import", "draft_path": "/nowhere"}, "Draft: /nowhere does not exist"),
        ({"start": "copy"}, "No version is chosen"),
        ({"start": "copy", "draft_version": "demo:9"}, "there is no version &#x27;demo:9&#x27;"),
        ({"slug": "new"}, "is an address of the console"),
        ({"trace_days": "0"}, "greater than or equal to 1"),
        ({"trace_days": "many"}, "Enter a whole number"),
        ({"expected_domains": "a, a"}, "is there more than once"),
        ({"min_gain": "lots"}, "Enter a number"),
        ({"canary_share": "2"}, "less than or equal to 1"),
    ],
)
def test_a_plan_that_cannot_be_used_is_named_and_kept(sourced, changes, said):
    given = plan(display_name="Typed before") | changes
    page = refused(sourced, "plan", given)
    assert said in page
    assert "Typed before" in page
    assert not Target.objects.exists()


def test_without_a_version_to_copy_the_plan_says_so(sourced):
    assert "No target has a version to copy yet." in text(sourced.get(at("plan")))


def test_a_wrong_threshold_is_not_hidden(sourced):
    assert '<details class="panel" open>' in refused(sourced, "plan", plan(min_gain="lots"))
    assert '<details class="panel">' in text(sourced.get(at("plan", "22222222-2222-4222-8222-222222222222")))


def test_an_imported_draft(sourced, config, tmp_path):
    make_draft(tmp_path / "draft", json.loads(config), seed=1, vocab=30)
    assert sourced.post(at("plan"), plan(start="import", draft_path=str(tmp_path / "draft"))).status_code == 302
    assert f"made within seconds, of the EAGLE-3 checkpoint in {tmp_path}/draft" in text(sourced.get(at("review")))
    sourced.post(at("review"))
    assert Target.objects.get().draft_path == str(tmp_path / "draft")


@pytest.fixture
def other(target, make_version, config):
    """Version 1 of another target of the same shape, live."""
    version = make_version()
    make_draft(Path(version.uri), json.loads(config), seed=2)
    services.judge(version)
    return SpeculatorVersion.objects.get(pk=version.pk)


def test_a_copy_of_another_target_s_version(sourced, other):
    assert '<option value="demo:1">demo v1, live' in text(sourced.get(at("plan")))
    assert sourced.post(at("plan"), plan(start="copy", draft_version="demo:1")).status_code == 302
    assert "as a copy of demo v1" in text(sourced.get(at("review")))
    sourced.post(at("review"))
    found = Target.objects.get(slug="tiny")
    assert (found.draft_version, found.draft_path) == (other, other.uri)
    assert AuditEvent.objects.get(action="target.register", subject="tiny").after["draft_version"] == "demo v1"


def test_a_copy_of_another_shape_is_refused_with_the_reason(sourced, other, config, tmp_path):
    make_draft(tmp_path / "wide", json.loads(config) | {"hidden_size": 64, "vocab_size": 99}, seed=2)
    SpeculatorVersion.objects.update(uri=str(tmp_path / "wide"))
    given = plan(start="copy", draft_version="demo:1")
    page = refused(sourced, "plan", given)
    for said in ("vocab_size is 99, the target&#x27;s is 61", "hidden_size is 64"):
        assert said in page
    Target.objects.filter(slug="demo").update(num_layers=12)
    assert "with 12 layers" in refused(sourced, "plan", given)
    SpeculatorVersion.objects.update(pruned_at=timezone.now())
    assert "the files of demo v1 were deleted to save space" in refused(sourced, "plan", given)


def test_versions_of_every_target_can_be_copied_and_are_proposed_live_ones_first(sourced, other):
    live = 20  # of 25
    names = [f"t{i:02d}" for i in range(15)]
    shape = {"architecture": other.target.architecture, "num_layers": 8, "hidden_size": 32, "vocab_size": 61}
    targets = [Target.objects.create(slug=name, name=name, **shape) for name in names]
    SpeculatorVersion.objects.bulk_create(
        SpeculatorVersion(
            target=each, number=number, status="live" if number == live else "retired", uri=other.uri,
            sha256=f"{number:064x}", size_bytes=1, config={}, provenance={},
            pruned_at=timezone.now() if number in (1, 24) else None,
        )
        for each in targets for number in range(1, 26)
    )  # fmt: skip
    proposed = re.search('<datalist id="copies">(.*?)</datalist>', text(sourced.get(at("plan"))))[1]
    found = re.findall('<option value="(.*?)">', proposed)
    assert "No target has a version to copy yet." not in text(sourced.get(at("plan")))
    assert found[:16] == ["demo:1", *(f"{name}:{live}" for name in names)]
    assert found[16:] == [f"{name}:{number}" for name in names for number in (25, 23, 22, 21)]
    given = plan(start="copy", draft_version="t14:2")  # kept, and older than what is proposed
    assert sourced.post(at("plan"), given)["location"] == at("review")
    assert "as a copy of t14 v2" in text(sourced.get(at("review")))
    assert 'value="t14:2"' in text(sourced.get(at("plan")))


def test_a_server_that_has_reported_itself(operator, config, checkpoint_dir, tmp_path):
    assert "No server waits for a target" in text(operator.get(at("source")))
    make_draft(tmp_path / "draft", json.loads(config), seed=1, vocab=30)
    announcements.announce(
        Announcement(
            "gpu-7", "tiny", "sglang 0.5.21, aurora 0.1.0", "http://127.0.0.1:30000", str(checkpoint_dir),
            str(tmp_path / "draft"), (1, 3, 4), json.loads(config), 0.0,
        )
    )  # fmt: skip
    part = text(operator.get(at("servers")))
    assert "<strong>gpu-7</strong> for <code>tiny</code>: sglang 0.5.21" in part
    assert "every 5s" not in part
    given = {"source": "reported", "replica": "tiny/gpu-7"}
    assert operator.post(at("source"), given)["location"] == at("check")
    assert "The server reports sglang 0.5.21" in text(operator.get(at("check")))
    page = text(operator.get(at("plan")))  # what it was launched with is proposed
    assert f'value="{tmp_path}/draft"' in page
    assert 'value="import" id="id_start_1" checked' in page or 'value="import" checked' in page.replace(" required", "")
    assert "The server that reported is a replica" in text(operator.get(at("review")))
    assert operator.post(at("review"))["location"] == "/targets/tiny/#launch"
    assert Target.objects.get().draft_path == str(tmp_path / "draft")


def test_the_token_for_servers_is_shown_once(operator):
    page = text(operator.post(at("token"), follow=True))
    secret = re.search(r"export AURORA_REPLICA_TOKEN=(\S+)</pre>", page)[1]
    assert authenticate_token(secret).role == "replica"
    assert 'value="reported"' in page
    assert secret not in text(operator.get(at("source")))


def test_a_draft_that_does_not_fit_does_not_close_the_way_to_the_plan(sourced):
    sourced.post(at("plan"), plan(start="import", draft_path="/nowhere"))
    page = text(sourced.get(at("check")))
    assert "Draft: /nowhere does not exist" in page
    assert "Go on to the plan" in page


def test_drafts_are_their_owner_s(clients, sourced):
    for step in ("source", "check", "plan", "review", "bulk"):
        assert clients["admin"].get(at(step)).status_code == 404
    assert clients["admin"].post(at("save/source"), {"path": "/x"}).status_code == 404
    assert clients["admin"].post(at("discard")).status_code == 404
    assert clients["viewer"].get(at("source")).status_code == 403
    assert RegistrationDraft.objects.get().given["source"]["path"] != "/x"


def test_unfinished_ones_are_listed_thrown_away_and_forgotten(sourced):
    other = "22222222-2222-4222-8222-222222222222"
    page = text(sourced.get(at("source", other)))
    assert "Unfinished registrations of yours: 1" in page
    assert at("source") in page
    RegistrationDraft.objects.update(touched_at=timezone.now() - timedelta(days=13))
    tasks.forget()
    assert RegistrationDraft.objects.count() == 1
    RegistrationDraft.objects.update(touched_at=timezone.now() - timedelta(days=15))
    tasks.forget()
    assert not RegistrationDraft.objects.exists()
    sourced.post(at("save/source", other), {"path": "/x"})
    assert sourced.post(at("discard", other))["location"] == "/targets/new/"
    assert not RegistrationDraft.objects.exists()


def test_one_person_s_drafts_are_bounded(operator, monkeypatch):
    monkeypatch.setattr(registration_drafts, "MAX_DRAFTS", 3)
    for i in range(5):
        operator.post(at("save/source", UUID(int=i + 1)), {"path": f"/{i}"})
    kept = sorted(draft.given["source"]["path"] for draft in RegistrationDraft.objects.all())
    assert kept == ["/2", "/3", "/4"]


def test_a_nul_is_no_bug(operator):
    assert "/models does not exist" in refused(operator, "source", {"source": "embedded", "path": "/mod\0els"})


def test_a_slug_taken_since_the_review_is_told(sourced, target):
    sourced.post(at("plan"), plan(slug="fine"))
    Target.objects.filter(pk=target.pk).update(slug="fine")
    page = refused(sourced, "review", {})
    assert "There is a target &#x27;fine&#x27; already. Choose another slug." in page
    assert "Register and start" not in page


def yaml_of(*entries):
    return json.dumps({"targets": entries})


def test_several_from_a_file_are_previewed_and_confirmed(operator, checkpoint_dir):
    good, bad = {"slug": "one", "path": str(checkpoint_dir)}, {"slug": "two", "path": "/nowhere"}
    file = SimpleUploadedFile("targets.yaml", yaml_of(good, bad).encode())
    assert "POST /api/v1/targets" in text(operator.get(at("bulk")))
    answer = operator.post(at("bulk"), {"text": "", "file": file, "mode": "all", "do": "check"})
    assert answer["location"] == at("bulk")
    page = text(operator.get(at("bulk")))
    assert "Check: 1 of 2 can be registered" in page
    assert "/nowhere does not exist." in page
    assert "Not all of them can be registered" in page and 'value="register"' not in page
    operator.post(at("bulk"), {"text": yaml_of(good, bad), "mode": "valid", "do": "check"})
    assert "Register 1 target<" in text(operator.get(at("bulk")))
    assert not Target.objects.exists()
    given = {"text": yaml_of(good, bad), "mode": "all", "do": "register"}
    assert "Nothing was registered: entry 2 (two) cannot be." in refused(operator, "bulk", given)
    answer = operator.post(at("bulk"), given | {"mode": "valid"}, follow=True)
    assert "Registered: one. Left out: 1." in text(answer)
    assert [target.slug for target in Target.objects.all()] == ["one"]
    assert not RegistrationDraft.objects.exists()


def test_a_file_that_cannot_be_read_is_named_and_kept(operator):
    operator.post(at("bulk"), {"text": "targets: [", "mode": "all", "do": "check"})
    page = text(operator.get(at("bulk")))
    assert "This file cannot be read: line 2, column 1" in page
    assert "targets: [" in page
    page = refused(operator, "bulk", {"text": "targets: [", "mode": "all", "do": "register"})
    assert "This file cannot be read: line 2, column 1" in page
    operator.post(at("bulk"), {"text": "targets:", "mode": "all", "do": "check"})
    assert "expected a list of 1 to 100 targets, found nothing" in text(operator.get(at("bulk")))


def test_the_example_on_the_page_is_one(operator):
    from aurora_web.console.registration_bulk import EXAMPLE
    from aurora_web.registry import bulk

    for entry in bulk.read_yaml(EXAMPLE):
        assert bulk.arguments_of(entry)["path"].startswith("/models/")
