"""Engine ports: the first target gets the first port, everybody keeps theirs."""

import socket
from pathlib import Path

from aurora_web.supervisor.ports import EnginePorts, is_free


def test_ports_are_kept_and_busy_ones_skipped(tmp_path: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        first = busy.getsockname()[1] - 1
        ports = EnginePorts(tmp_path / "engines.json", "127.0.0.1", first, frozenset())
        assert not is_free("127.0.0.1", first + 1)
        demo = ports.port_for("demo")
        other = ports.port_for("other")
        assert first + 1 not in {demo, other} and demo != other
        again = EnginePorts(tmp_path / "engines.json", "127.0.0.1", min(demo, other), frozenset())
        assert (again.port_for("demo"), again.port_for("other")) == (demo, other)


def test_the_console_port_is_never_given_to_an_engine(tmp_path: Path) -> None:
    ports = EnginePorts(tmp_path / "engines.json", "127.0.0.1", 18100, frozenset({18100}))
    assert ports.port_for("demo") != 18100
