"""What the API answers about a launch, and about registrations that were refused: the types of its document."""

from __future__ import annotations

from ninja import Field, Schema


class LaunchOut(Schema):
    """launch.launch_payload."""

    replica: str
    is_ready: bool = Field(description="version 1 is made, so that the command can be run")
    environment: dict[str, str] = Field(description="without the token")
    token_variable: str = Field(description="of the environment: what holds the token")
    arguments: list[str]
    command: str = Field(description="for a POSIX shell")


class RefusedEntryOut(Schema):
    """One of several registrations."""

    number: int = Field(description="from 1")
    slug: str
    status: int = Field(description="of HTTP, as it would have been alone")
    detail: str
    errors: list[str]
