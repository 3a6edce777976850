"""The ASGI application: ``uvicorn aurora_web.asgi:application``."""

from __future__ import annotations

import gc
import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "aurora_web.settings")  # noqa: TID251 - names the settings module only
django_application = get_asgi_application()  # sets Django up; only then can the models below be imported

from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from django.urls import path  # noqa: E402

from aurora_web import urls  # noqa: E402, F401  with them every view, now and not in the first request
from aurora_web.live_consumer import LiveConsumer  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": django_application,
        "websocket": AllowedHostsOriginValidator(
            AuthMiddlewareStack(
                URLRouter(
                    [
                        path("ws/overview", LiveConsumer.as_asgi()),
                        path("ws/targets/<str:slug>", LiveConsumer.as_asgi()),
                    ]
                )
            )
        ),
    }
)

# All of this stays loaded: looking through it for garbage would stop every request for a sixth of a second.
gc.collect()
gc.freeze()
