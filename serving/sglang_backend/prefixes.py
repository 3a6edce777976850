"""Cached prefixes belong to the draft that read them.

SGLang keeps a prefix's entries in the draft's cache beside those in the target's, and computes neither again. A new
draft would go on from what a former one wrote there, for as long as the prefix is in use: the text stays the same, but
far fewer of its drafts pass. So requests are told apart by the draft that serves when they arrive, with the key by
which SGLang keeps prefixes apart anyway. A swap back finds the prefixes of before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

DIGITS = 16  # of the checksum


def keep_apart(received: Iterable[Any], sha256: str) -> None:
    """Let what SGLang's scheduler has received share prefixes with requests of the same draft alone.

    ``received``: TokenizedGenerateReqInputs and batches of them; anything else is left alone.
    """
    for request in received:
        for each in getattr(request, "batch", None) or (request,):
            if hasattr(each, "extra_key"):
                each.extra_key = "|".join(filter(None, (each.extra_key, f"draft={sha256[:DIGITS]}")))
