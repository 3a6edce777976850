"""The wire records round-trip through JSON, refuse what is not theirs, and can never hold a tensor."""

import dataclasses
import inspect
import json
import subprocess
import sys
import typing

import pytest

from speculators import records
from speculators.records import DesiredState, DomainPin, DomainPins, Record, RecordError, StepRecord, TraceRecord

ALL_RECORDS = [
    cls for _, cls in inspect.getmembers(records, inspect.isclass) if issubclass(cls, Record) and cls is not Record
]
JSON_LEAVES = {int, float, str, bool, type(None), dict, typing.Any}


def trace() -> TraceRecord:
    return TraceRecord(
        trace_id="a" * 32, target="demo", domain="sql", version=3, tokens=(5, 6, 7, 8, 9), prompt_len=2,
        temperature=0.0, finish_reason="stop", started_at=1.5, decode_seconds=0.25, lookahead=4,
        steps=(StepRecord((8, 1, 2, 3), 1),), segment_id="b" * 32,
    )  # fmt: skip


def test_round_trip_through_json() -> None:
    assert TraceRecord.from_json(json.loads(json.dumps(trace().to_json()))) == trace()


def test_defaults_may_be_left_out_of_a_payload() -> None:
    payload = trace().to_json()
    del payload["first_state"]
    assert TraceRecord.from_json(payload).first_state == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tokens": [1, "x"]}, "TraceRecord.tokens: expected int, got 'x'"),
        ({"tokens": "abc"}, "TraceRecord.tokens: expected a list"),
        ({"version": 1.5}, "TraceRecord.version: expected int, got 1.5"),
        ({"version": True}, "TraceRecord.version: expected int, got True"),
        ({"colour": 1}, "unknown fields ['colour']"),
        (
            {"steps": [{"proposed": [1]}]},
            "StepRecord: unknown fields [], missing",
        ),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, object], named: str) -> None:
    with pytest.raises(RecordError) as error:
        TraceRecord.from_json({**trace().to_json(), **change})
    assert named in str(error.value)


def test_an_integer_is_accepted_where_a_float_is_meant() -> None:
    payload = {f.name: 0 for f in dataclasses.fields(DesiredState)}
    payload |= {"target": "t", "uri": "", "sha256": "", "pins": None}
    desired = DesiredState.from_json(payload)
    assert isinstance(desired.control_share, float)


def test_a_replica_that_knows_no_pins_is_sent_no_such_field() -> None:
    desired = DesiredState("t", 1, 0, "", "", 4, 0.0, 0.0)
    assert "pins" not in desired.to_json()
    pinned = dataclasses.replace(desired, pins=DomainPins(2, (DomainPin("sql", 3, no_training=True),)))
    assert DesiredState.from_json(json.loads(json.dumps(pinned.to_json()))) == pinned
    assert pinned.pins is not None
    assert pinned.pins.pins[0].kinds == ("lookahead", "no_training")


def leaves(hint: object) -> set[object]:
    if isinstance(hint, type) and issubclass(hint, Record):
        return set().union(*(leaves(h) for h in typing.get_type_hints(hint).values() if h is not typing.ClassVar))
    arguments = [a for a in typing.get_args(hint) if a is not Ellipsis]
    if not arguments:
        return {hint}
    return set().union(*(leaves(a) for a in arguments))


@pytest.mark.parametrize("cls", ALL_RECORDS, ids=lambda c: c.__name__)
def test_a_record_is_frozen_slotted_and_holds_only_plain_values(cls: type) -> None:
    assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert "__dict__" not in dir(cls)
    for field in dataclasses.fields(cls):
        assert leaves(typing.get_type_hints(cls)[field.name]) <= JSON_LEAVES, field.name


def test_records_need_the_standard_library_only() -> None:
    code = (
        "import sys; before = set(sys.modules); import speculators.records, speculators.domain_names;"
        "new = {m.split('.')[0] for m in set(sys.modules) - before} - {'speculators'};"
        "print(sorted(new - sys.stdlib_module_names))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
