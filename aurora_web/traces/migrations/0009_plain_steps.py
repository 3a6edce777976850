"""An accept length is that of the steps that had drafts to verify. Traces from before count all their steps as such."""

from django.db import migrations

CREATE = """
ALTER TABLE traces_trace ADD COLUMN num_plain_steps integer NOT NULL DEFAULT 0;
DROP INDEX traces_trace_by_accept_length;
CREATE INDEX traces_trace_by_accept_length ON traces_trace
    (target_id, ((num_correct_drafts + num_verify_steps - num_plain_steps)::float8
                 / NULLIF(num_verify_steps - num_plain_steps, 0)));
ANALYZE traces_trace;
"""
DROP = """
ALTER TABLE traces_trace DROP COLUMN num_plain_steps CASCADE;
CREATE INDEX traces_trace_by_accept_length ON traces_trace
    (target_id, ((num_correct_drafts + num_verify_steps)::float8 / NULLIF(num_verify_steps, 0)));
"""


class Migration(migrations.Migration):
    dependencies = [("traces", "0008_search_by_accept_length")]
    operations = [migrations.RunSQL(CREATE, DROP)]
