"""Parts of a target's page, several in one answer: what a page that is watched asks for again and again."""

from __future__ import annotations

from collections.abc import Callable

from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.html import format_html
from django.utils.safestring import mark_safe

from aurora_web.accounts.access import allow
from aurora_web.console import fleet, targets
from aurora_web.console.shared import SHARED_PARTS, seen_alike, shelf

View = Callable[[HttpRequest, str], HttpResponseBase]
VIEWS: dict[str, View] = {  # by the id of the element that holds it
    "figures": targets.figures,
    "tables": targets.tables,
    "charts-table": targets.charts_table,
    "events-part": targets.events,
    "canary": fleet.canary,
    "connection": fleet.connection,
    "replicas": fleet.replicas,
    "standing": fleet.standing,
    "alerts": fleet.alerts,
    "launch-part": fleet.launch_part,
    "actions-part": targets.actions,
    "switches": targets.switches,
    "versions-part": targets.versions,
}


@allow("read")
def parts(request: HttpRequest, slug: str) -> HttpResponse:
    """The parts named in the address (``part``, repeated), each to be put into its element; the range as on the page.

    What is shared is up to a second old, unless ``after`` (the number of a delta) tells it from what came before.
    """
    names = dict.fromkeys(request.GET.getlist("part"))
    unknown = [name for name in names if name not in VIEWS]
    if unknown or not names:
        raise Http404(f"a target's page has no part {unknown[0]!r:.40}" if unknown else "no part is named")
    element = '<div id="{}" hx-swap-oob="innerHTML">{}</div>'
    return HttpResponse("".join(format_html(element, name, _part(request, slug, name)) for name in names))


def _part(request: HttpRequest, slug: str, name: str) -> str:
    if name not in SHARED_PARTS:
        return mark_safe(_body(VIEWS[name], request, slug).decode())  # what a template rendered
    body = shelf.get(seen_alike(request, name), lambda: _body(VIEWS[name], request, slug))
    return mark_safe(body.decode())


def _body(view: View, request: HttpRequest, slug: str) -> bytes:
    answer = view(request, slug)
    assert isinstance(answer, HttpResponse)
    return answer.content
