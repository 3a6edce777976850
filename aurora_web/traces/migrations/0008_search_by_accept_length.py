"""Searches by accept length go straight to their traces: rare ones are counted without reading all others."""

from django.db import migrations

# As aurora_web/traces/search.py writes it: another expression would not be found in the index. Not a partial one: of
# those Postgres takes no statistics.
# Postgres guesses how rare a length is until it has looked, and at days that are over it does not look by itself.
CREATE = """
CREATE INDEX IF NOT EXISTS traces_trace_by_accept_length ON traces_trace
    (target_id, ((num_correct_drafts + num_verify_steps)::float8 / NULLIF(num_verify_steps, 0)));
ANALYZE traces_trace;
"""


class Migration(migrations.Migration):
    dependencies = [("traces", "0007_search_by_domain_and_version")]
    operations = [migrations.RunSQL(CREATE, "DROP INDEX IF EXISTS traces_trace_by_accept_length")]
