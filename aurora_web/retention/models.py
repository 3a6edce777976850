"""How long things are kept, where an admin has said something else than the environment."""

from __future__ import annotations

from django.db import models


class Retention(models.Model):
    """One row at most; null = what the environment says."""

    trace_days = models.FloatField(null=True, blank=True)
    segment_hours = models.FloatField(null=True, blank=True)
    figure_days = models.FloatField(null=True, blank=True)
    num_versions = models.PositiveIntegerField(null=True, blank=True)
