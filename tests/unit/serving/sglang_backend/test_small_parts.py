"""Settings, labels, the guard, the control's policy and SGLang's metrics."""

from __future__ import annotations

from types import SimpleNamespace

import httpx
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from serving.sglang_backend import config as settings
from serving.sglang_backend.config import PluginConfigError
from serving.sglang_backend.control import BLOCK_STEPS, ControlPolicy
from serving.sglang_backend.copies import Copier
from serving.sglang_backend.guard import SILENT_STEPS, Guard
from serving.sglang_backend.labels import Label, label_of, of_warm_up, seen, was_seen, with_headers
from serving.sglang_backend.metrics import EngineCounts, MetricsReader, Reading, parse
from serving.sglang_backend.prefixes import keep_apart
from tests.unit.serving.fakes import wait_until
from tests.unit.serving.sglang_backend.fakes import CAPTURE_HOOKS

GOOD = {"AURORA_CONSOLE_URL": "http://10.0.0.1:8000", "AURORA_TARGET_SLUG": "demo", "AURORA_STATE_DIR": "/var/aurora"}


def test_settings_come_from_the_environment():
    found = settings.load("0.0.0.0", 30000, {**GOOD, "AURORA_QUEUE_MIB": "8", "AURORA_REPLICA_TOKEN": "secret"})
    assert (found.engine_url, found.slug, found.max_queue_bytes, found.token) == (
        "http://127.0.0.1:30000", "demo", 8 << 20, "secret",
    )  # fmt: skip
    assert found.replica.startswith("demo-") and found.replica.endswith("-30000")
    assert found.recording("sglang", "/m", "/d").max_waiting_bytes == 8 << 20, "as many again from there to the disk"
    assert settings.load("h", 1, {**GOOD, "AURORA_REPLICA": "left"}).recording("sglang", "/m", "/d").replica == "left"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AURORA_CONSOLE_URL", "console:8000"),
        ("AURORA_CONSOLE_URL", "http://console:port"),
        ("AURORA_CONSOLE_URL", "http://console:99999"),
        ("AURORA_ENGINE_URL", "http://[::1"),
        ("AURORA_TARGET_SLUG", "Demo!"),
        ("AURORA_REPLICA", "a b"),
        ("AURORA_STATE_DIR", ""),
        ("AURORA_STATE_DIR", "~nosuchuser/aurora"),
        ("AURORA_STATE_DIR", "a\0b"),
        ("AURORA_QUEUE_MIB", "much"),
        ("AURORA_QUEUE_MIB", "²"),
        ("AURORA_QUEUE_MIB", "٣"),
        ("AURORA_QUEUE_MIB", "1" * 5000),
        ("AURORA_CAPTURE", "maybe"),
        ("AURORA_PREFIX_PER_DRAFT", "sometimes"),
    ],
)
def test_a_wrong_value_is_named(variable, value):
    with pytest.raises(PluginConfigError, match=variable):
        settings.load("127.0.0.1", 30000, {**GOOD, variable: value})


@pytest.mark.parametrize("variable", ["AURORA_REPLICA_TOKEN", "AURORA_SGLANG_KEY"])
def test_a_secret_loses_its_line_end_and_is_never_shown(variable):
    found = settings.load("127.0.0.1", 30000, {**GOOD, variable: " top-secret\n"})
    assert "top-secret" in (found.token, found.admin_key)
    for value in ("top\nsecret", "töp-secret", "top secret"):
        with pytest.raises(PluginConfigError, match=variable) as raised:
            settings.load("127.0.0.1", 30000, {**GOOD, variable: value})
        assert value not in str(raised.value) and "secret" not in str(raised.value)


def test_whom_to_tell_is_known_although_other_values_are_wrong():
    wrong = {**GOOD, "AURORA_QUEUE_MIB": "²", "AURORA_STATE_DIR": "~nosuchuser/x", "AURORA_REPLICA": "left"}
    assert settings.to_tell("127.0.0.1", 30000, wrong).replica == "left"
    with pytest.raises(PluginConfigError, match="AURORA_TARGET_SLUG"):
        settings.to_tell("127.0.0.1", 30000, {**wrong, "AURORA_TARGET_SLUG": "Wrong!"})


@pytest.mark.parametrize(
    ("value", "is_on"), [(None, True), ("", True), ("on", True), ("ON", True), ("off", False), ("Off", False)]
)
@pytest.mark.parametrize(
    ("variable", "field"), [("AURORA_CAPTURE", "is_capture_wanted"), ("AURORA_PREFIX_PER_DRAFT", "is_prefix_per_draft")]
)
def test_a_switch_is_on_unless_it_says_off(variable, field, value, is_on):
    given = GOOD if value is None else {**GOOD, variable: value}
    assert getattr(settings.load("127.0.0.1", 30000, given), field) is is_on


def test_several_tokenizer_workers_are_a_reason_why_nobody_knows_what_requests_say():
    assert settings.why_unlabelled(SimpleNamespace()) == ""
    assert settings.why_unlabelled(SimpleNamespace(tokenizer_worker_num=1)) == ""
    assert "--tokenizer-worker-num 3: SGLang loads no plugin" in settings.why_unlabelled(
        SimpleNamespace(tokenizer_worker_num=3)
    )


def test_requests_are_told_apart_by_the_draft_that_serves():
    one, ours, other = (SimpleNamespace(extra_key=key) for key in (None, "tenant", None))
    abort = SimpleNamespace(rid="x")
    keep_apart([one, SimpleNamespace(batch=[ours, other]), abort], "ab" * 32)
    assert [each.extra_key for each in (one, ours, other)] == [
        "draft=abababababababab",
        "tenant|draft=abababababababab",
        "draft=abababababababab",
    ]
    assert not hasattr(abort, "extra_key")


def test_without_a_console_the_plugin_is_off():
    assert not settings.is_switched_on({})
    assert settings.is_switched_on(GOOD)


@pytest.mark.parametrize(
    ("headers", "label"),
    [
        ({}, Label("default", True)),
        ({"x-aurora-domain": "sql"}, Label("sql", True)),
        ({"x-aurora-domain": "sql", "x-aurora-no-train": "1"}, Label("sql", False)),
        ({"x-aurora-no-train": "true"}, Label("default", False)),
        ({"x-aurora-no-train": "0"}, Label("default", True)),
        ({"x-aurora-domain": "No Domain"}, Label("default", True)),
        ({"x-aurora-domain": "team:sql", "x-aurora-no-train": "1"}, Label("default", False)),
        ({"x-aurora-domain": "a|aurora:b:", "x-aurora-no-train": "1"}, Label("default", False)),
    ],
)
@pytest.mark.parametrize("key", [None, "tenant:7", "|aurora:", "|aurora::"])
def test_labels_survive_in_the_routing_key(headers, label, key):
    carried = with_headers(key, headers)
    assert label_of(carried, None) == label
    assert carried.startswith(key or "")
    assert was_seen(carried) and not was_seen(key)
    assert label_of(with_headers(seen(carried), {}), None) == label


@pytest.mark.parametrize("headers", [{}, {"x-aurora-domain": "sql"}, {"x-aurora-no-train": "0"}])
@pytest.mark.parametrize(
    ("key", "params"),
    [
        ("|aurora:sql:no-train", None),  # typed by a client behind the router
        ("|aurora:sql:no-train|aurora::", {"aurora_domain": "sql"}),  # and seen by the proxy
        ("|aurora::", {"aurora_no_train": True}),
        ("|aurora:team:sql", None),  # no clear wish
        (None, {"aurora_no_train": "yes"}),
    ],
)
def test_any_wish_not_to_be_learnt_from_counts(headers, key, params):
    assert not label_of(with_headers(key, headers), params).is_trace


def test_only_the_hook_itself_says_that_a_request_is_no_traffic():
    typed = of_warm_up("tenant|aurora:sql:")
    assert label_of(with_headers(typed, {}), None).is_traffic and label_of(seen(typed), None).is_traffic
    assert label_of(of_warm_up(with_headers(None, {})), None) == Label("default", is_traffic=False)


def test_the_last_mark_that_names_a_domain_names_it():
    assert label_of("|aurora:sql|aurora::", None) == Label("sql", True)
    assert label_of("|aurora:sql:|aurora:prose:|aurora::", {"aurora_domain": "code"}) == Label("prose", True)


def test_labels_by_sampling_params():
    assert label_of(None, {"aurora_domain": "sql", "aurora_no_train": True, "__req__": object()}) == Label("sql", False)
    assert label_of(None, {"aurora_domain": "sql"}) == Label("sql", True)


@pytest.mark.parametrize("key", [None, "", "tenant"])
def test_a_request_whose_headers_nobody_has_looked_at_is_not_learnt_from(key):
    """A call from Python, a route that the hook does not see."""
    assert label_of(key, {"other": 1}) == label_of(key, None) == Label("default", False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_states_that_float16_cannot_hold_are_cut(dtype):
    rows = torch.tensor([[1e5, -1e5, 65504.0, 65520.0, 3.0, float("inf")]]).to(dtype)
    kept = Copier(torch.device("cpu")).states(rows).tensor
    if dtype != torch.float16:
        most = 65280.0 if dtype == torch.bfloat16 else 65504.0  # what both have
        assert kept.tolist() == [[most, -most, most, most, 3.0, most]]
    assert kept.dtype == torch.float16


def test_rows_of_16_bits_are_never_copied_into_32():
    class Dtypes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            found = func(*args, **(kwargs or {}))
            seen.add(found.dtype)
            return found

    seen: set[torch.dtype] = set()
    with Dtypes():
        Copier(torch.device("cpu")).states(torch.ones(2, 4, dtype=torch.bfloat16))
    assert seen == {torch.bfloat16, torch.float16}


def test_the_guard_swallows_counts_and_gives_up():
    guard, done = Guard(max_failures=3), []

    def fail() -> None:
        done.append(1)
        raise ValueError("no")

    for _ in range(5):
        guard.run("hook", fail)
    assert (guard.is_tripped, guard.num_failures, len(done), guard.fired["hook"]) == (True, 3, 3, 5)
    assert guard.last_failure == "hook: ValueError: no"
    guard.run("hook", fail, is_owed=True)
    assert (len(done), guard.problem) == (4, "4 failures, the last one in hook: ValueError: no")


def test_a_question_that_fails_is_answered_with_no():
    guard = Guard()
    assert (guard.holds("a", lambda: True), guard.holds("b", lambda: 1 // 0 == 0), guard.num_failures) == (
        True,
        False,
        1,
    )


def test_a_control_that_cannot_draw_costs_sglang_nothing():
    policy = ControlPolicy(4)
    policy.control_share = None
    assert [policy.get_steps_for_batch(1) for _ in range(3)] == [4, 4, 4]
    assert policy.cuda_graph_bs_for_step(0) is None


@pytest.mark.parametrize("silent", CAPTURE_HOOKS)
def test_a_hook_that_never_fires_is_found_whichever_it_is(silent):
    guard = Guard()
    for name in CAPTURE_HOOKS:
        for _ in range(SILENT_STEPS if name != silent else 0):
            guard.run(name, lambda: None)
    assert guard.silent(num_steps=0) == [silent]
    guard.run(silent, lambda: None)
    assert guard.silent(num_steps=10**6) == []


def test_that_steps_are_hidden_from_us_is_found_by_sglangs_own_count():
    guard = Guard()
    for _ in range(10 * SILENT_STEPS):  # what a server does that is only asked for its health
        for name in ("prefill", "final", "stream", "request"):
            guard.run(name, lambda: None)
    assert guard.silent(num_steps=0) == []
    assert guard.silent(num_steps=SILENT_STEPS) == ["step", "extend", "verify"]


def test_the_control_comes_in_blocks_with_its_share():
    policy = ControlPolicy(4)
    policy.control_share = 0.25
    steps = [policy.get_steps_for_batch(3) for _ in range(400 * BLOCK_STEPS)]
    blocks = [steps[i : i + BLOCK_STEPS] for i in range(0, len(steps), BLOCK_STEPS)]
    assert all(set(block) in ({0}, {4}) for block in blocks)
    assert 0.19 < sum(block[0] == 0 for block in blocks) / len(blocks) < 0.31
    again = ControlPolicy(4)  # another rank
    again.control_share = 0.25
    assert steps[:100] == [again.get_steps_for_batch(3) for _ in range(100)]


@pytest.mark.parametrize("is_speculating", [True, False])
def test_a_rank_on_which_all_else_has_failed_drafts_as_the_others_do(is_speculating):
    """Ranks that draft apart wait for each other for ever."""
    well, failing = ControlPolicy(4, guard=Guard()), ControlPolicy(4, guard=Guard(max_failures=1))
    for policy in (well, failing):
        policy.control_share, policy.is_speculating = 0.5, is_speculating
    failing.guard.run("command", lambda: 1 / 0)
    assert failing.guard.is_tripped
    for _ in range(100 * BLOCK_STEPS):
        assert well.get_steps_for_batch(1) == failing.get_steps_for_batch(1)
    assert failing.block == well.block


def test_speculation_can_be_off_and_an_inner_policy_decides_the_rest():
    class Inner:
        candidate_steps = [1, 3]

        def get_steps_for_batch(self, batch_size):
            return 3 if batch_size < 4 else 1

        def on_verify_complete(self, correct, batch_size):
            return 1

        def cuda_graph_bs_for_step(self, step):
            return [step]

        def set_cuda_graph_bs(self, sizes):
            self.sizes = sizes

    policy = ControlPolicy(3, Inner())
    policy.set_cuda_graph_bs([8])
    assert policy.candidate_steps == [0, 1, 3]
    assert (policy.cuda_graph_bs_for_step(0), policy.cuda_graph_bs_for_step(3)) == ([8], [3])
    assert (policy.get_steps_for_batch(1), policy.get_steps_for_batch(9)) == (3, 1)
    assert policy.on_verify_complete([1], 1) == 1
    policy.is_speculating = False
    assert policy.get_steps_for_batch(1) == 0
    assert policy.on_verify_complete([1], 1) is None


METRICS = """# HELP sglang:generation_tokens_total x
sglang:generation_tokens_total{is_streaming="false",model_name="m"} 80.0
sglang:generation_tokens_total{is_streaming="true",model_name="m"} 40.0
sglang:spec_verify_calls_total{model_name="m"} 55.0
sglang:num_requests_total{is_streaming="false",model_name="m"} 10.0
sglang:generation_tokens_histogram_bucket{le="100.0"} 7.0
sglang:spec_accept_length{tp_rank="0"} 2.5
"""


def test_sglangs_counters_are_summed_over_their_labels():
    assert parse(METRICS) == EngineCounts(num_verify_steps=55, num_accept_tokens=110)
    assert parse("nothing 1.0\n") is None


def test_both_counts_are_of_one_moment(scripted):
    """The engine's are read every few seconds: beside ours of later they would differ while accept lengths climb."""
    ours = [(40, 80)]
    reader = MetricsReader(scripted.url, lambda: ours[0], interval_seconds=3600.0)
    reader.start()
    assert reader.latest == Reading(EngineCounts(0, 0), None, None)
    reader.read()
    first = reader.latest
    assert (first.engine, first.num_verify_steps, first.num_accept_tokens) == (parse(scripted.metrics), 40, 80)
    ours[0] = (90, 200)
    assert reader.latest == first
    scripted.metrics = "nothing of SGLang's"
    reader.read()
    assert reader.latest == first
    reader.stop()


@pytest.mark.parametrize("odd", ["NaN", "+Inf", "-Inf", "1e300", "x"])
def test_what_is_no_count_is_skipped(odd):
    assert parse(f'{METRICS}sglang:spec_verify_calls_total{{tp_rank="2"}} {odd}\n') == parse(METRICS)
    assert parse(f"sglang:generation_tokens_total {odd}\nsglang:num_requests_total 1.0\n") is None


def test_sglangs_counters_are_read_again_whatever_a_read_has_come_to():
    reader = MetricsReader("http://127.0.0.1:1", lambda: (0, 0), interval_seconds=0.001)
    answers = iter(
        [RuntimeError("not HTTP at all"), httpx.Response(200, text=METRICS, request=httpx.Request("GET", "/"))]
    )

    def get(path):
        found = next(answers, httpx.ConnectError("that was all"))
        if isinstance(found, Exception):
            raise found
        return found

    reader._http.get = get
    reader.start()
    wait_until(lambda: reader.latest.engine == parse(METRICS))
    reader.stop()
