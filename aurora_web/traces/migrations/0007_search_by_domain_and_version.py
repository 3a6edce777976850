"""Searches by domain and by version go straight to their traces, however many others are newer."""

from django.db import migrations

# trained_at is not among them: it changes once per trace, and would change every index that holds it.
CREATE = """
CREATE INDEX IF NOT EXISTS traces_trace_by_domain ON traces_trace (target_id, domain, started_at DESC, trace_id DESC)
    INCLUDE (version, finish_reason, num_verify_steps, num_correct_drafts, is_held_out);
CREATE INDEX IF NOT EXISTS traces_trace_by_version ON traces_trace (target_id, version, started_at DESC, trace_id DESC)
    INCLUDE (domain, finish_reason, num_verify_steps, num_correct_drafts, is_held_out);
DROP INDEX IF EXISTS traces_trace_version;
"""
DROP = """
CREATE INDEX IF NOT EXISTS traces_trace_version ON traces_trace (target_id, version, received_at DESC);
DROP INDEX IF EXISTS traces_trace_by_domain;
DROP INDEX IF EXISTS traces_trace_by_version;
"""


class Migration(migrations.Migration):
    dependencies = [("traces", "0006_pin_change")]
    operations = [migrations.RunSQL(CREATE, DROP)]
