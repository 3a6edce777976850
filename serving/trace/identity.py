"""What a replica says of itself, beside what its engine knows."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Identity:
    """What a replica calls itself."""

    replica: str
    target: str
    engine: str
    url: str
    # What the console is told when it has no target of this name; "" and () where nobody knows.
    model_path: str = ""
    draft_path: str = ""
    aux_layer_ids: tuple[int, ...] = ()
    host: str = field(default_factory=socket.gethostname)


@dataclass(frozen=True, slots=True)
class Beside:
    """What a heartbeat carries beside the engine's stats; the fields are those of ObservedState."""

    num_dropped_traces: int = 0
    spool_bytes: int = 0
    capture_state: str = "working"
    capture_detail: str = ""
    num_traces: int = 0
    queue_bytes: int = 0
    # By our records, at the moment that the engine's own are of; None = it has none, and the stats say ours
    num_verify_steps: int | None = None
    num_accept_tokens: int | None = None
    engine_num_verify_steps: int = 0
    engine_num_accept_tokens: int = 0
    target_sha256: str = ""
    ranks: tuple[str, ...] = ()
    policy_detail: str = ""
