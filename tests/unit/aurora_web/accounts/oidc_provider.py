"""A small OpenID Connect provider on loopback: discovery, keys, authorization code with PKCE, RS256 ID tokens.

It lets in whoever ``claims`` says, without asking. ``spoil`` changes the ID token's claims, or the key it is signed
with, so that a client can be seen to refuse it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

CLIENT_ID, CLIENT_SECRET = "aurora", "a client secret"


class Provider(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self.server_port}"
        self.key = RSAKey.generate_key(2048, {"kid": "k1", "use": "sig", "alg": "RS256"})
        self.claims = {"sub": "1234", "preferred_username": "grace", "groups": ["ops"]}
        self.spoil = {}  # claims of the ID token, and "key": what it is signed with
        self.codes = {}

    def id_token(self, asked):
        now = int(time.time())
        spoilt = {name: value for name, value in self.spoil.items() if name != "key"}
        claims = {
            "iss": self.issuer,
            "aud": CLIENT_ID,
            "iat": now,
            "exp": now + 300,
            "nonce": asked["nonce"],
            **self.claims,
            **spoilt,
        }
        return jwt.encode({"alg": "RS256", "kid": "k1"}, claims, self.spoil.get("key", self.key))


class Handler(BaseHTTPRequestHandler):
    server: Provider

    def log_message(self, *args):
        pass

    def answer(self, body, status=200):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def do_GET(self):
        url = urlsplit(self.path)
        issuer = self.server.issuer
        if url.path == "/.well-known/openid-configuration":
            self.answer(
                {
                    "issuer": issuer,
                    "authorization_endpoint": f"{issuer}/authorize",
                    "token_endpoint": f"{issuer}/token",
                    "jwks_uri": f"{issuer}/keys",
                    "response_types_supported": ["code"],
                    "subject_types_supported": ["public"],
                    "id_token_signing_alg_values_supported": ["RS256"],
                    "token_endpoint_auth_methods_supported": ["client_secret_basic"],
                }
            )
        elif url.path == "/keys":
            self.answer(KeySet([self.server.key]).as_dict(private=False))
        elif url.path == "/authorize":
            self.authorize({name: values[-1] for name, values in parse_qs(url.query).items()})
        else:
            self.answer({"error": "not found"}, 404)

    def authorize(self, asked):
        assert asked["response_type"] == "code", asked
        assert asked["client_id"] == CLIENT_ID, asked
        assert asked["code_challenge_method"] == "S256", asked
        assert "openid" in asked["scope"].split(), asked
        code = secrets.token_urlsafe(16)
        self.server.codes[code] = asked
        self.send_response(302)
        self.send_header("Location", asked["redirect_uri"] + "?" + urlencode({"code": code, "state": asked["state"]}))
        self.end_headers()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        given = {name: values[-1] for name, values in parse_qs(body).items()}
        basic = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        asked = self.server.codes.pop(given.get("code"), None)
        digest = hashlib.sha256(given.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if self.headers.get("Authorization") != f"Basic {basic}":
            self.answer({"error": "invalid_client"}, 401)
        elif asked is None or challenge != asked["code_challenge"] or given["redirect_uri"] != asked["redirect_uri"]:
            self.answer({"error": "invalid_grant"}, 400)
        else:
            token = {"access_token": secrets.token_urlsafe(16), "token_type": "Bearer", "expires_in": 300}
            self.answer(token | {"id_token": self.server.id_token(asked)})


@contextmanager
def running_provider():
    provider = Provider()
    thread = threading.Thread(target=provider.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield provider
    provider.shutdown()
    provider.server_close()
    thread.join()
