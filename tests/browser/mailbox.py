"""A real SMTP server in this process, for what the product sends by its real path."""

from __future__ import annotations

import re
import threading
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from aiosmtpd.controller import Controller

from tests.bench.ring import free_ports, wait_for


class Mailbox:
    """Keeps every mail that arrives; ``url`` is what AURORA_EMAIL_URL wants."""

    def __init__(self) -> None:
        self._mails: list[EmailMessage] = []
        self._lock = threading.Lock()
        self._controller = Controller(self, hostname="127.0.0.1", port=free_ports(1)[0])

    def __enter__(self) -> Mailbox:
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self._controller.port}?tls=0"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        found = message_from_bytes(envelope.content, policy=policy.default)
        found["X-Envelope-To"] = ", ".join(envelope.rcpt_tos)
        with self._lock:
            self._mails.append(found)
        return "250 kept"

    def mails(self, subject: str = "") -> list[EmailMessage]:
        """Those with ``subject`` in their subject, oldest first."""
        with self._lock:
            return [mail for mail in self._mails if subject in mail["Subject"]]

    def wait(self, subject: str, seconds: float = 60) -> EmailMessage:
        """The newest mail about ``subject``."""
        found: list[EmailMessage] = wait_for(f"a mail about {subject!r}", lambda: self.mails(subject), seconds)
        return found[-1]


def link_in(mail: EmailMessage) -> str:
    """The address that the mail's text ends with."""
    return re.findall(r"http\S+", mail.get_content())[-1]
