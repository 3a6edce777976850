"""What the registry announces; higher apps listen, so that lower ones never call up."""

from __future__ import annotations

from django.dispatch import Signal

# Sent after commit, with version=SpeculatorVersion. A listener that misses it finds the row by its missing decision.
candidate_registered = Signal()
