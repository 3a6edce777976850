"""Engine ports: the first target gets the first port, everybody keeps theirs."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from aurora_web.supervisor.ports import EnginePorts, is_free

HOST = "127.0.0.1"


@pytest.fixture
def busy() -> Iterator[int]:
    """A port on which another program listens."""
    with socket.socket() as program:
        program.bind((HOST, 0))
        program.listen()
        yield program.getsockname()[1]


def test_ports_are_kept_and_busy_ones_skipped(tmp_path: Path, busy: int) -> None:
    ports = EnginePorts(tmp_path / "engines.json", HOST, busy - 1, frozenset())
    assert not is_free(HOST, busy)
    demo = ports.give("demo")
    other = ports.give("other")
    assert busy not in {demo, other} and demo != other
    assert (ports.given("demo"), ports.given("other")) == (demo, other)
    again = EnginePorts(tmp_path / "engines.json", HOST, min(demo, other), frozenset())
    assert (again.give("demo"), again.give("other")) == (demo, other)


def test_a_kept_port_that_another_program_took_is_given_back_once_it_is_free(tmp_path: Path) -> None:
    file = tmp_path / "engines.json"
    with socket.socket() as program:
        program.bind((HOST, 0))
        program.listen()
        taken = program.getsockname()[1]
        file.write_text(f'{{"demo": {taken - 1}, "moved": {taken}}}')
        ports = EnginePorts(file, HOST, taken - 1, frozenset())
        elsewhere = ports.give("moved")
        assert elsewhere > taken and ports.kept("moved") == taken and ports.given("moved") == elsewhere
        assert ports.give("new") not in {taken, elsewhere}
    assert EnginePorts(file, HOST, taken - 1, frozenset()).give("moved") == taken


def test_the_console_port_is_never_given_to_an_engine(tmp_path: Path) -> None:
    ports = EnginePorts(tmp_path / "engines.json", HOST, 18100, frozenset({18100}))
    assert ports.give("demo") != 18100


def test_without_a_free_port_the_target_is_named(tmp_path: Path) -> None:
    ports = EnginePorts(tmp_path / "engines.json", HOST, 65535, frozenset({65535}))
    with pytest.raises(OSError, match="no free port from 65535 on for the engine of demo"):
        ports.give("demo")
