"""What is to be sent: the console's plans and the command line's, and what is said about wrong ones."""

from pathlib import Path

import pytest

from serving.traffic import prompts
from serving.traffic.__main__ import main
from serving.traffic.config import ConfigError, load
from serving.traffic.domains import base
from serving.traffic.domains.base import Draft, GeneratedDomain, RealDomain
from serving.traffic.domains.registry import REAL
from serving.traffic.plan import Plan
from serving.traffic.prompts import Prompts

PLAN = {
    "slug": "demo",
    "engine_url": "http://127.0.0.1:1/",
    "enabled": True,
    "concurrency": 2,
    "requests_per_second": 0.0,
    "mix": {"sql": 1},
    "max_tokens": 8,
    "sampled_share": 0.5,
    "schedule": [],
}
FIXED = ["--engine-url", "http://127.0.0.1:8100/", "--model", "smol"]


def test_a_schedule_goes_round():
    plan = Plan.from_json(PLAN | {"schedule": [{"seconds": 10, "mix": {"sql": 1}}, {"seconds": 5, "mix": {"chat": 1}}]})
    found = [next(iter(plan.mix_at(t))) for t in (0, 9.9, 10, 14.9, 15, 25)]
    assert found == ["sql", "sql", "chat", "chat", "sql", "chat"]


def test_a_plan_without_a_mix_means_real_prompts():
    plan = Plan.from_json(PLAN | {"mix": {}, "schedule": [{"seconds": 10, "mix": {}}]})
    assert plan.engine_url == "http://127.0.0.1:1"
    assert plan.mix == plan.mix_at(3) == dict.fromkeys(REAL, 1.0)


def test_unknown_domains_are_left_out(caplog):
    assert Plan.from_json(PLAN | {"mix": {"poetry": 1, "chat": 2, "sql": 0}}).mix == {"chat": 2.0}
    assert "unknown domains ['poetry'] are left out; known are ['arithmetic'," in caplog.text
    assert Plan.from_json(PLAN | {"mix": {"poetry": 1}}).mix.keys() == REAL.keys()


@pytest.mark.parametrize("change", [{"mix": 3}, {"concurrency": "many"}, {"schedule": [{"at": 1}]}])
def test_a_plan_that_is_none_is_explained(change):
    with pytest.raises(ValueError, match=r"traffic plan|many"):
        Plan.from_json(PLAN | change)


@pytest.mark.parametrize("weight", [1e308, float("nan"), -1])
def test_weights_by_which_nothing_can_be_drawn_are_refused(weight):
    phases = [{"seconds": 10, "mix": {"sql": weight}}]
    for change in ({"mix": {"sql": weight, "arithmetic": weight}}, {"schedule": phases}):
        with pytest.raises(ValueError, match=r"the weight of sql is .*: expected 0 to 1,000,000"):
            Plan.from_json(PLAN | change)


def test_prompts_go_on_within_a_process_and_differ_after_a_restart():
    one, again, other = Prompts(5), Prompts(5), Prompts(6)
    sent = [one.next(domain).message for domain in ("chat", "sql_schema") * 40]
    assert len(set(sent)) == 80
    assert sent == [again.next(domain).message for domain in ("chat", "sql_schema") * 40]
    assert set(sent).isdisjoint(other.next(domain).message for domain in ("chat", "sql_schema") * 40)


def test_no_prompt_comes_twice_over_restarts_and_a_write_that_was_cut_short_hides_nothing(tmp_path):
    file = tmp_path / "traffic" / "sent"
    first = Prompts(5, file)
    sent = [first.next("chat").message for _ in range(40)]
    file.write_bytes(file.read_bytes() + b"abc")
    again = Prompts(5, file)  # the same seed would draw the same prompts
    sent += [again.next("chat").message for _ in range(40)]
    assert len(set(sent)) == 80
    assert file.stat().st_size == 8 * 80


def test_a_domain_that_has_run_out_begins_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(prompts, "MOST_REPEATS", 3)
    sent = [Prompts(5, tmp_path / "sent").next("chat").message for _ in range(5)]
    assert len(set(sent)) == 3


class Real(RealDomain):
    """A domain of five prompts; whoever looks for a sixth for long is stopped."""

    name = "small"
    num_drawn = 0

    def drafts(self, rng, split):
        while True:
            self.num_drawn += 1
            assert self.num_drawn < 100_000, "it looks for what is not there"
            yield Draft("a source", f"Request {rng.randrange(5)}")


class Generated(GeneratedDomain):
    """Another such domain."""

    name = "small"
    num_drawn = 0

    def example(self, rng):
        self.num_drawn += 1
        assert self.num_drawn < 100_000, "it looks for what is not there"
        return f"Request {rng.randrange(5)}", "answer"


@pytest.fixture(params=[Real, Generated])
def small(request, monkeypatch):
    """Such a domain, whose end is seen after 50 repeats."""
    domain = request.param()
    monkeypatch.setattr(prompts, "get_domain", lambda name: domain)
    monkeypatch.setattr(prompts, "MOST_REPEATS", 50)
    monkeypatch.setattr(base, "MOST_REPEATS", 50)
    return domain


def test_a_domain_that_runs_out_within_a_process_begins_anew(small, tmp_path, caplog):
    caplog.set_level("INFO")
    sending = Prompts(5, tmp_path / "sent")
    sent = [sending.next("small").message for _ in range(25)]
    every = {f"Request {i}" for i in range(5)}
    assert set(sent[:5]) == every  # none again before all were there
    assert all(set(sent[i : i + 9]) == every for i in range(5, 16))
    assert (tmp_path / "sent").stat().st_size == 8 * 5
    assert caplog.messages == ["small has run out: what was sent long ago comes again"]


def test_in_a_domain_that_has_run_out_nothing_new_is_looked_for_any_more(small):
    sending = Prompts(5)
    for _ in range(6):
        sending.next("small")
    before = small.num_drawn
    for _ in range(10):
        sending.next("small")
    assert small.num_drawn - before < 10 * 50


def test_a_file_that_cannot_be_kept_is_said_once_and_done_without(tmp_path, caplog):
    (tmp_path / "sent").mkdir()
    found = Prompts(5, tmp_path / "sent")
    assert found.next("chat").message != found.next("chat").message
    [record] = caplog.records
    assert "sent cannot be kept" in record.getMessage()


def test_the_console_is_asked_unless_an_engine_is_given():
    environment = {"AURORA_CONSOLE_URL": "http://console:8000/", "AURORA_REPLICA_TOKEN": "secret"}
    config = load([], environment)
    assert (config.console_url, config.token, config.plan) == ("http://console:8000", "secret", None)
    assert load(["--console-url", "http://other", "--token", "mine"], environment).console_url == "http://other"
    assert (load([], {}).console_url, load([], {}).sent_file) == ("http://127.0.0.1:8000", None)
    assert load([], {"AURORA_STATE_DIR": "/srv/aurora"}).sent_file == Path("/srv/aurora/traffic/sent")


def test_a_fixed_plan_has_the_demos_defaults():
    plan = load(FIXED, {}).plan
    assert (plan.slug, plan.engine_url, plan.enabled) == ("smol", "http://127.0.0.1:8100", True)
    assert (plan.concurrency, plan.max_tokens, plan.sampled_share, plan.requests_per_second) == (4, 128, 0.5, 0)
    assert (plan.mix, plan.schedule) == (dict.fromkeys(REAL, 1.0), ())


def test_a_fixed_plan_as_it_is_given():
    options = (
        "--concurrency 2 --max-tokens 64 --sampled-share 1 --requests-per-second 1.5 --mix sql_schema=1,chat=2.5,sql"
    )
    schedule = '[{"seconds": 60, "mix": {"chat": 1}}, {"seconds": 30, "mix": {}}]'
    plan = load([*FIXED, *options.split(), "--schedule", schedule], {}).plan
    assert (plan.concurrency, plan.max_tokens, plan.sampled_share, plan.requests_per_second) == (2, 64, 1.0, 1.5)
    assert plan.mix == {"sql_schema": 1.0, "chat": 2.5, "sql": 1.0}
    assert plan.schedule == ((60.0, {"chat": 1.0}), (30.0, dict.fromkeys(REAL, 1.0)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--console-url", "localhost"], "--console-url='localhost': must be an address like http://127.0.0.1:8000"),
        (["--concurrency", "2"], "--concurrency='2': only with --engine-url"),
        (["--engine-url", "http://127.0.0.1:8100"], "--engine-url needs --model"),
        (["--engine-url", "8100", "--model", "smol"], "--engine-url='8100': must be an address"),
        ([*FIXED, "--concurrency", "0"], "--concurrency='0': must be a whole number between 1 and 64"),
        ([*FIXED, "--max-tokens", "1.5"], "--max-tokens='1.5': must be a whole number between 1 and 4,096"),
        ([*FIXED, "--sampled-share", "nan"], "--sampled-share='nan': must be a number between 0 and 1"),
        ([*FIXED, "--mix", "chat=1,poetry=1"], "--mix='chat=1,poetry=1': unknown domain 'poetry'; known: explain_code"),
        (
            [*FIXED, "--mix", "chat=much"],
            "--mix='chat=much': a weight must be a number from 0 to 1,000,000, not 'much'",
        ),
        ([*FIXED, "--mix", "chat=1e308,sql=1e308"], "a weight must be a number from 0 to 1,000,000, not '1e308'"),
        ([*FIXED, "--mix", "chat=-1"], "a weight must be a number from 0 to 1,000,000, not '-1'"),
        ([*FIXED, "--schedule", "120"], "--schedule='120': must be like [{"),
        ([*FIXED, "--schedule", '[{"seconds": 0, "mix": {}}]'], "with seconds above 0"),
        ([*FIXED, "--schedule", '[{"seconds": 9, "mix": {"poetry": 1}}]'], "unknown domain 'poetry'"),
        (
            [*FIXED, "--schedule", '[{"seconds": 9, "mix": {"chat": null}}]'],
            "a weight must be a number from 0 to 1,000,000",
        ),
    ],
)
def test_wrong_options_are_explained(options, said, capsys):
    with pytest.raises(ConfigError) as raised:
        load(options, {})
    assert said in str(raised.value)
    assert main(options) == 2
    assert said in capsys.readouterr().err


def test_an_unknown_option_ends_with_status_2(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--rate", "3"])
    assert ended.value.code == 2
    assert "--rate" in capsys.readouterr().err
