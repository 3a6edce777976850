"""Settings of the console; the only place of aurora_web that reads the environment."""

from __future__ import annotations

import os
from pathlib import Path

from csp.constants import NONE, SELF

from aurora_web import environment as env

_given = env.given(os.environ)
BASE_DIR = Path(__file__).resolve().parent.parent
STATE_DIR = env.directory(_given, "AURORA_STATE_DIR", BASE_DIR / ".state")
WEB_HOST = _given.get("AURORA_WEB_HOST", "127.0.0.1")
WEB_PORT = env.port(_given, "AURORA_WEB_PORT", 8000)
CONSOLE_URL = env.console_url(_given, env.address(WEB_HOST, WEB_PORT))
SECRET_KEY = env.secret_key(_given, STATE_DIR)
DEBUG = env.flag(_given, "AURORA_DEBUG", False)
ALLOWED_HOSTS = env.allowed_hosts(_given, WEB_HOST)
CSRF_TRUSTED_ORIGINS = [CONSOLE_URL] if CONSOLE_URL.startswith("https://") else []

# Where things lie on disk (design: tokens are kept, hidden states expire), and how long: an admin's settings win.
SEGMENTS_DIR = STATE_DIR / "segments"
VERSIONS_DIR = STATE_DIR / "versions"
TRAINING_DIR = STATE_DIR / "training"
# Where model ids are looked for, as <directory>/<model id>; None = a target registered by its id has no weights here.
MODELS_DIR = env.directory(_given, "AURORA_MODELS_DIR", STATE_DIR) if _given.get("AURORA_MODELS_DIR") else None
SEGMENT_HOURS, TRACE_DAYS, FIGURE_DAYS, KEEP_VERSIONS = env.kept(_given)

# --- Postgres and Valkey: the environment first, else what the supervisor started in this state directory.
_services = env.services_file(STATE_DIR)
DATABASE_URL = _given.get("DATABASE_URL") or _services.get("DATABASE_URL") or "postgresql:///aurora"
REDIS_URL, CELERY_BROKER_URL = env.redis_urls(
    _given.get("REDIS_URL") or _services.get("REDIS_URL") or "redis://127.0.0.1:6379/0"
)
DATABASES = {"default": env.postgres(DATABASE_URL) | {"CONN_MAX_AGE": 0, "CONN_HEALTH_CHECKS": True}}
# CONN_MAX_AGE stays 0 with Django's pool: an ASGI request runs in a thread of its own.
DATABASES["default"]["OPTIONS"]["pool"] = {"min_size": 1, "max_size": 12, "timeout": 10}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django_htmx",
    "csp",
    "ninja",  # serves its own Swagger files: the API docs work offline
    "channels",
    "aurora_web.accounts",
    "aurora_web.retention",
    "aurora_web.registry",
    "aurora_web.traces",
    "aurora_web.training",
    "aurora_web.metrics",
    "aurora_web.rollouts",
    "aurora_web.console",
]
MIDDLEWARE = [
    "aurora_web.request_id.RequestIdMiddleware",
    "aurora_web.request_reason.RequestReasonMiddleware",
    "aurora_web.problems.ApiProblemMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "aurora_web.static_files.StaticFilesMiddleware",
    "django.middleware.gzip.GZipMiddleware",  # pages and JSON; it pads answers, so that their length tells no secret
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "aurora_web.accounts.preferences.TimeZoneMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "aurora_web.idempotency.IdempotencyMiddleware",
]
ROOT_URLCONF = "aurora_web.urls"
ASGI_APPLICATION = "aurora_web.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "aurora_web.accounts.preferences.reader",
                "aurora_web.console.inbox.counts",
            ]
        },
    }
]
STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
STATIC_PACKED_DIR = STATE_DIR / "static-packed"
WHITENOISE_USE_FINDERS = True  # no collectstatic step between a checkout and a page
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"
DATA_UPLOAD_MAX_MEMORY_SIZE = 64 * 1024 * 1024  # one segment announcement with all its traces

# --- people
AUTH_USER_MODEL = "accounts.User"
LOGIN_URL = "/accounts/login/"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = LOGIN_URL
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
]
OIDC = env.oidc(_given)  # None: people sign in here only
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = CONSOLE_URL.startswith("https://")
SECURE_CONTENT_TYPE_NOSNIFF = True
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "script-src": [SELF],
        # The hash is that of the empty string: plotly.js' mode bar makes an empty style element.
        "style-src": [SELF, "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"],
        "img-src": [SELF, "data:", "blob:"],
        "connect-src": [SELF],
        "object-src": [NONE],
        "base-uri": [SELF],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
    }
}

# --- Celery and Channels
CELERY_TASK_DEFAULT_QUEUE = "default"
CELERY_TASK_ROUTES = {"training.run_slice": {"queue": "gpu"}}
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_SERIALIZER = "json"
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
# Slices are bounded: an unacknowledged message older than this belongs to a dead worker. The lease in the database,
# not the broker, decides who may train.
CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 900, "socket_keepalive": True}
CELERY_BEAT_SCHEDULE_FILENAME = str(STATE_DIR / "celerybeat-schedule")
CELERY_BEAT_SCHEDULE = {
    "training.tick": {"task": "training.tick", "schedule": 1.0, "options": {"expires": 5}},
    "metrics.roll_up": {"task": "metrics.roll_up", "schedule": 1.0, "options": {"expires": 5}},
    "metrics.refresh": {"task": "metrics.refresh", "schedule": 10.0, "options": {"expires": 10}},
    "rollouts.reconcile": {"task": "rollouts.reconcile", "schedule": 10.0, "options": {"expires": 20}},
    "training.reconcile": {"task": "training.reconcile", "schedule": 10.0, "options": {"expires": 20}},
    "training.sweep": {"task": "training.sweep", "schedule": 3600.0, "options": {"expires": 600}},
    "traces.maintain": {"task": "traces.maintain", "schedule": 60.0, "options": {"expires": 60}},
    "system.beat": {"task": "system.beat", "schedule": 5.0, "options": {"expires": 5}},
    "accounts.forget": {"task": "accounts.forget", "schedule": 3600.0, "options": {"expires": 600}},
    "registry.forget": {"task": "registry.forget", "schedule": 3600.0, "options": {"expires": 600}},
    "metrics.forget": {"task": "metrics.forget", "schedule": 600.0, "options": {"expires": 60}},
}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [REDIS_URL], "capacity": 1000},
    }
}

# --- notifications: e-mail goes through AURORA_EMAIL_URL, e.g. smtp://user:password@mail.example.org:587
EMAIL_URL = _given.get("AURORA_EMAIL_URL", "")
globals().update(env.email(EMAIL_URL))
DEFAULT_FROM_EMAIL = _given.get("AURORA_EMAIL_FROM", "aurora@localhost")

# --- the playground: the --api-key of the SGLang servers, sent to replicas on SGLang alone
SGLANG_API_KEY = env.secret(_given, "AURORA_SGLANG_API_KEY")

# --- training and rollouts
CODE_VERSION = _given.get("AURORA_CODE_VERSION", "0.1.0")
FRESH_TRACES_PER_SLICE = 128
REPLAY_TRACES_PER_SLICE = 256
HELD_OUT_TRACES_PER_DOMAIN = 12
MIN_FRESH_TRACES = 8
REPLICA_TIMEOUT_SECONDS = 10.0
SHARED_SECONDS = 1.0  # parts of pages that many people watch are rendered so often at most (console/shared.py)

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"}},
    "filters": {"request_id": {"()": "aurora_web.request_id.RequestIdFilter"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["request_id"]}},
    "root": {"handlers": ["stderr"], "level": env.log_level(_given)},
    "loggers": {"httpx": {"level": "WARNING"}, "django.channels.server": {"level": "WARNING"}},
}
