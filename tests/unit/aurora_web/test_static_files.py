"""Static files and pages go out packed, and are what they were when unpacked."""

import asyncio
import gzip

import pytest
from asgiref.testing import ApplicationCommunicator
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler

from aurora_web.static_files import packed

PLOTLY = "/static/vendor/plotly-basic.min.js"


@pytest.fixture(autouse=True)
def files_listed_once(counted_before, settings):
    settings.WHITENOISE_AUTOREFRESH = False  # as a process of the web does, other than the other tests' clients


def body(answer):
    return answer.content


def test_a_script_is_sent_packed_to_who_takes_it(client):
    source = (settings.BASE_DIR / "static" / "vendor" / "plotly-basic.min.js").read_bytes()
    answer = client.get(PLOTLY, headers={"accept-encoding": "gzip, br"})
    sent = body(answer)
    assert (answer["content-encoding"], int(answer["content-length"])) == ("gzip", len(sent))
    assert gzip.decompress(sent) == source
    assert len(sent) < len(source) / 2.5
    assert answer["content-type"].startswith("text/javascript")
    assert "Accept-Encoding" in answer["vary"]


def test_a_script_is_sent_plain_to_who_does_not(client):
    answer = client.get(PLOTLY)
    assert "content-encoding" not in answer
    assert body(answer) == (settings.BASE_DIR / "static" / "vendor" / "plotly-basic.min.js").read_bytes()


def test_a_changed_file_is_packed_again(tmp_path, settings):
    settings.STATIC_PACKED_DIR = tmp_path / "packed"
    file = tmp_path / "a.js"
    file.write_text("one")
    first = packed(file)
    assert packed(file) == first
    file.write_text("other")
    assert gzip.decompress(packed(file).read_bytes()) == b"other"
    assert not list((tmp_path / "packed").glob("tmp*"))


@pytest.mark.django_db
def test_pages_and_json_are_sent_packed(clients, target):
    for path in ("/targets/demo/", "/api/v1/targets/demo"):
        plain = clients["viewer"].get(path)
        answer = clients["viewer"].get(path, headers={"accept-encoding": "gzip"})
        assert answer["content-encoding"] == "gzip"
        assert len(answer.content) < len(plain.content)
        assert b"demo" in gzip.decompress(answer.content)


def test_asgi_has_nothing_to_warn_of(recwarn):
    """Neither a directory that nobody makes, nor files that only a thread could stream."""
    handler = ASGIHandler()

    async def ask():
        scope = {"type": "http", "method": "GET", "path": PLOTLY, "headers": [(b"host", b"testserver")]}
        client = ApplicationCommunicator(handler, scope)
        await client.send_input({"type": "http.request", "body": b""})
        start = await client.receive_output(60)
        await client.receive_output(60)
        await client.wait(60)
        return start["status"]

    assert asyncio.run(ask()) == 200
    said = [str(each.message) for each in recwarn]
    assert not [line for line in said if "synchronous iterators" in line or "No directory" in line]
