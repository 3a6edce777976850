"""Row locks, and the one order in which they are taken.

Whoever takes several takes them from top to bottom, so that no two transactions wait for each other:

1. the training slice, then its run (training/services.py);
2. the deployment of a target (rollouts/intent.py, ``lock_deployment``): every decision about its versions, and what
   follows from one: alerts, swaps, notifications;
3. one version (registry/services.py, ``lock_version``);
4. the target itself: its settings, numbers of versions, rules for names, pins;
5. a replica: its own report takes nothing above; the start and end of a canary, which change several, hold 2;
6. sums: metric windows, totals, capture windows.

A foreign key takes its row's key share when the transaction commits, so after everything above. The locks here leave
keys alone (``FOR NO KEY UPDATE``): a report that commits never waits for somebody who decides about its target.
"""

from __future__ import annotations

from typing import Any, TypeVar

from django.db.models import Model, QuerySet

Row = TypeVar("Row", bound=Model)


def lock_row(rows: QuerySet[Row], **key: Any) -> Row:
    """The one row of ``key``, locked until the transaction ends, with what ``rows`` selects beside it.

    It is read again after the wait: Postgres re-checks a row that has changed meanwhile against the rows that it was
    joined with before, and a ``select_related`` of the same statement would be None, or old. Raises DoesNotExist.
    """
    bare = rows.model._default_manager.select_for_update(no_key=True)
    pk = bare.values_list("pk", flat=True).get(**key)
    return rows.get(pk=pk)
