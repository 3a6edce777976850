"""Parsers for the values that settings.py reads; each error names the variable, the value, and what would be right."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # where one finds what listens everywhere


def wrong(name: str, value: object, right: str) -> ImproperlyConfigured:
    """The one shape of a settings error."""
    return ImproperlyConfigured(f"{name}={value!r} cannot be used: {right}")


def given(env: Mapping[str, str]) -> dict[str, str]:
    """What is set to something: compose files pass on as "" what nobody has set, and that is as good as not there."""
    return {name: value for name, value in env.items() if value}


def address(host: str, port: int) -> str:
    """Where this machine finds what listens on ``host``; an IPv6 address stands in brackets."""
    dialled = bracketed(LOOPBACK.get(host, host))
    return f"http://{dialled}:{port}"


def bracketed(host: str) -> str:
    """A host as it stands in an address."""
    return f"[{host}]" if ":" in host else host


def port(env: Mapping[str, str], name: str, default: int) -> int:
    value = env.get(name, str(default))
    if not value.isascii() or not value.isdigit() or not 1 <= int(value) <= 65535:
        raise wrong(name, value, "expected a port number from 1 to 65535")
    return int(value)


def flag(env: Mapping[str, str], name: str, default: bool) -> bool:
    value = env.get(name, "1" if default else "0").lower()
    if value not in {"0", "1", "true", "false"}:
        raise wrong(name, value, "expected 0 or 1")
    return value in {"1", "true"}


def number(env: Mapping[str, str], name: str, default: float, *, low: float, high: float) -> float:
    value = env.get(name, str(default))
    try:
        parsed = float(value)
    except ValueError:
        parsed = float("nan")
    if not low <= parsed <= high:
        raise wrong(name, value, f"expected a number from {low:g} to {high:g}")
    return parsed


def secret(env: Mapping[str, str], name: str) -> str:
    """A key for an HTTP header, "" without one; the error does not repeat it."""
    value = env.get(name, "")
    if not all("!" <= letter <= "~" for letter in value):
        raise wrong(name, "…", "expected printable ASCII characters without spaces")
    return value


def trainer_device(env: Mapping[str, str]) -> str:
    """What training_worker.config.wanted_device takes, which the web side cannot import."""
    value = env.get("AURORA_TRAINER_DEVICE", "").strip() or "auto"
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise wrong("AURORA_TRAINER_DEVICE", value, "expected auto, cpu, cuda or cuda:N with the number of a GPU")
    return value


def directory(env: Mapping[str, str], name: str, default: Path) -> Path:
    value = env.get(name) or str(default)
    path = Path(value).expanduser()
    if path.exists() and not path.is_dir():
        raise wrong(name, value, "expected a directory, and this is something else")
    return path.absolute()


class Kept(NamedTuple):
    """How long things are kept."""

    segment_hours: float
    trace_days: float
    figure_days: float
    versions: int


def kept(env: Mapping[str, str]) -> Kept:
    """``AURORA_SEGMENT_HOURS``, ``AURORA_TRACE_DAYS``, ``AURORA_FIGURE_DAYS`` and ``AURORA_KEEP_VERSIONS``."""
    segment_hours = number(env, "AURORA_SEGMENT_HOURS", 6, low=0.01, high=24 * 365)
    trace_days = number(env, "AURORA_TRACE_DAYS", 7, low=1, high=3650)
    figure_days = number(env, "AURORA_FIGURE_DAYS", min(4 * trace_days, 3650), low=1, high=3650)
    versions = number(env, "AURORA_KEEP_VERSIONS", 20, low=2, high=10_000)
    return Kept(segment_hours, trace_days, figure_days, int(versions))


def log_level(env: Mapping[str, str]) -> str:
    value = env.get("AURORA_LOG_LEVEL", "INFO")
    if value.upper() not in LOG_LEVELS:
        raise wrong("AURORA_LOG_LEVEL", value, f"expected one of {', '.join(LOG_LEVELS)}")
    return value.upper()


def console_url(env: Mapping[str, str], default: str) -> str:
    """``AURORA_CONSOLE_URL``: where people and engines find the console."""
    value = env.get("AURORA_CONSOLE_URL")
    if value is None:
        return default
    try:
        url = urlsplit(value)
        is_right = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
    except ValueError:
        is_right = False
    if not is_right:
        right = "expected an address like https://aurora.example.org"
        raise wrong("AURORA_CONSOLE_URL", without_password(value), right)
    return value.rstrip("/")


def allowed_hosts(env: Mapping[str, str], web_host: str) -> list[str]:
    """``AURORA_ALLOWED_HOSTS``: the names that browsers may call the console by."""
    value = env.get("AURORA_ALLOWED_HOSTS")
    if value is None:
        return [bracketed(web_host), "127.0.0.1", "localhost", "[::1]", "testserver"]
    hosts = [host.strip() for host in value.split(",")]
    if not all(re.fullmatch(r"[^\s/]+", host) for host in hosts):
        raise wrong("AURORA_ALLOWED_HOSTS", value, "expected names with commas, like aurora.example.org,127.0.0.1")
    return hosts


def services_file(state_dir: Path) -> dict[str, str]:
    """URLs of the embedded Postgres and Valkey, as the supervisor wrote them to ``services.json``; {} without it."""
    path = state_dir / "services.json"
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (ValueError, PermissionError) as error:
        raise ImproperlyConfigured(f"{path} cannot be read ({error}): start Aurora once more, or delete it") from error
    return {str(k): str(v) for k, v in content.items()}


def postgres(value: str) -> dict[str, Any]:
    """A Django ``DATABASES`` entry from ``postgresql://user:password@host:port/name?host=/socket/directory``."""
    right = "expected postgresql://user:password@host:port/name or postgresql:///name?host=/socket/directory&user=name"
    url = urlsplit(value)
    name = unquote(url.path.lstrip("/"))
    if url.scheme not in {"postgres", "postgresql"} or not name:
        raise wrong("DATABASE_URL", without_password(value), right)
    try:
        url_port = url.port
    except ValueError as error:
        raise wrong("DATABASE_URL", without_password(value), right) from error
    query = {k: v[-1] for k, v in parse_qs(url.query).items()}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "USER": query.pop("user", unquote(url.username or "")),
        "PASSWORD": query.pop("password", unquote(url.password or "")),
        "HOST": query.pop("host", unquote(url.hostname or "")),
        "PORT": query.pop("port", str(url_port or "")),
        "OPTIONS": query,
    }


def redis_urls(value: str) -> tuple[str, str]:
    """The same server as redis-py and as Celery spell it: (``unix://...``, ``redis+socket://...``)."""
    url = urlsplit(value)
    if url.scheme in {"redis", "rediss"} and url.hostname:
        return value, value
    if url.scheme in {"unix", "redis+socket"} and url.path.startswith("/") and not url.netloc:
        db = parse_qs(url.query).get("db", parse_qs(url.query).get("virtual_host", ["0"]))[-1]
        return f"unix://{url.path}?db={db}", f"redis+socket://{url.path}?virtual_host={db}"
    raise wrong(
        "REDIS_URL",
        without_password(value),
        "expected redis://host:port/0, rediss://host:port/0 or unix:///path/to/socket?db=0",
    )


def email(value: str) -> dict[str, Any]:
    """Django's e-mail settings from ``smtp://user:password@host:587``, ``smtps://`` for TLS from the first byte.

    ``?tls=0`` sends without TLS; without a value nothing is sent and channels of that kind say so.
    """
    if not value:
        return {"EMAIL_BACKEND": "django.core.mail.backends.dummy.EmailBackend"}
    right = "expected smtp://user:password@host:587 or smtps://user:password@host:465"
    url = urlsplit(value)
    try:
        url_port = url.port
    except ValueError as error:
        raise wrong("AURORA_EMAIL_URL", without_password(value), right) from error
    if url.scheme not in {"smtp", "smtps"} or not url.hostname:
        raise wrong("AURORA_EMAIL_URL", without_password(value), right)
    is_plain = parse_qs(url.query).get("tls", ["1"])[-1] == "0"
    return {
        "EMAIL_BACKEND": "django.core.mail.backends.smtp.EmailBackend",
        "EMAIL_HOST": url.hostname,
        "EMAIL_PORT": url_port or (465 if url.scheme == "smtps" else 587),
        "EMAIL_HOST_USER": unquote(url.username or ""),
        "EMAIL_HOST_PASSWORD": unquote(url.password or ""),
        "EMAIL_USE_SSL": url.scheme == "smtps",
        "EMAIL_USE_TLS": url.scheme == "smtp" and not is_plain,
        "EMAIL_TIMEOUT": 10,
    }


def without_password(value: str) -> str:
    """An address as it may be shown."""
    value = re.sub(r"(?<=password=)[^&]*", "…", value, flags=re.IGNORECASE)
    head, at, tail = value.rpartition("@")
    return f"{head.split(':')[0]}://…@{tail}" if at else value


@dataclass(frozen=True, slots=True)
class OpenIdConnect:
    """Where people may sign in besides here, and what their groups mean."""

    issuer: str
    client_id: str
    client_secret: str
    name: str  # on the button
    scope: str
    username_claim: str
    role_claim: str
    roles: dict[str, str]  # value of the role claim -> role; "*" = everybody


OIDC_DEFAULTS = {
    "ISSUER": "",
    "CLIENT_ID": "",
    "CLIENT_SECRET": "",
    "NAME": "single sign-on",
    "SCOPE": "openid profile email",
    "USERNAME_CLAIM": "preferred_username",
    "ROLE_CLAIM": "groups",
    "ROLES": "",
}


def oidc(env: Mapping[str, str]) -> OpenIdConnect | None:
    """``AURORA_OIDC_*``; None without an issuer: everybody signs in here."""
    prefix = "AURORA_OIDC_"
    given = {name.removeprefix(prefix): value for name, value in env.items() if name.startswith(prefix)}
    if unknown := sorted(given.keys() - OIDC_DEFAULTS.keys()):
        value = "***" if "SECRET" in unknown[0] else given[unknown[0]]
        raise wrong(prefix + unknown[0], value, f"expected one of {', '.join(OIDC_DEFAULTS)} after {prefix}")
    asked = {name: given.get(name) or default for name, default in OIDC_DEFAULTS.items()}
    if not asked["ISSUER"]:
        if any(given.values()):
            raise wrong(f"{prefix}ISSUER", "", "expected the provider's address: other AURORA_OIDC_ values are set")
        return None
    if not _is_secure(asked["ISSUER"]):
        right = "expected the provider's https address, like https://login.example.org/realms/main"
        raise wrong(f"{prefix}ISSUER", asked["ISSUER"], right)
    for name in ("CLIENT_ID", "CLIENT_SECRET"):
        if not asked[name]:
            raise wrong(prefix + name, "", "expected what the provider gave this console")
    if "openid" not in asked["SCOPE"].split():
        raise wrong(f"{prefix}SCOPE", asked["SCOPE"], "expected openid among the scopes, like 'openid profile groups'")
    if find_spec("authlib") is None or find_spec("requests") is None:
        raise wrong(f"{prefix}ISSUER", asked["ISSUER"], "the packages of requirements-oidc.txt are missing: make oidc")
    return OpenIdConnect(
        **{name.lower(): asked[name] for name in OIDC_DEFAULTS if name != "ROLES"}, roles=_roles(asked["ROLES"])
    )


def _is_secure(address: str) -> bool:
    """https, or a provider on this machine."""
    try:
        url = urlsplit(address)
    except ValueError:
        return False
    is_here = url.hostname in {"127.0.0.1", "::1", "localhost"}
    return bool(url.hostname) and (url.scheme == "https" or (url.scheme == "http" and is_here))


def _roles(value: str) -> dict[str, str]:
    """``aurora-admins=admin,aurora-operators=operator,*=viewer``"""
    right = "expected pairs like aurora-admins=admin,aurora-ops=operator,*=viewer (roles: viewer, operator, admin)"
    found = {}
    for pair in filter(None, (part.strip() for part in value.split(","))):
        group, equals, role = (part.strip() for part in pair.rpartition("="))
        if not equals or not group or role not in {"viewer", "operator", "admin"}:
            raise wrong("AURORA_OIDC_ROLES", value, right)
        found[group] = role
    if not found:
        raise wrong("AURORA_OIDC_ROLES", value, right)
    return found


def given_secret_key(env: Mapping[str, str]) -> str:
    """``AURORA_SECRET_KEY``, "" without one."""
    value = env.get("AURORA_SECRET_KEY", "")
    if value and len(value) < 32:
        raise wrong("AURORA_SECRET_KEY", "*" * len(value), "expected at least 32 random characters")
    return value


def secret_key(env: Mapping[str, str], state_dir: Path) -> str:
    """``AURORA_SECRET_KEY``, else the key in the state directory, made on first use and readable by its owner only."""
    if value := given_secret_key(env):
        return value
    path = state_dir / "secret_key"
    if not path.exists():
        state_dir.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{secrets.token_hex(4)}")
        fresh.touch(mode=0o600)
        fresh.write_text(secrets.token_urlsafe(48))
        try:
            path.hardlink_to(fresh)  # two processes that start at once must end with the same key
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return path.read_text().strip()
