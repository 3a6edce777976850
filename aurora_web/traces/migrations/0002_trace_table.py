"""The partitioned table behind Trace: one partition a day, and a default one for clocks that are wrong."""

from django.db import migrations

CREATE = """
CREATE TABLE traces_trace (
    trace_id uuid NOT NULL,
    started_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    target_id bigint NOT NULL,
    segment_id uuid NOT NULL,
    domain varchar(100) NOT NULL,
    version integer NOT NULL,
    tokens integer[] NOT NULL,
    prompt_len integer NOT NULL,
    first_state integer NOT NULL,
    lookahead integer NOT NULL,
    temperature double precision NOT NULL,
    finish_reason varchar(16) NOT NULL,
    decode_seconds double precision NOT NULL,
    steps bytea NOT NULL,
    is_held_out boolean NOT NULL,
    lease_id uuid,
    lease_expires_at timestamptz,
    trained_at timestamptz,
    is_lost boolean NOT NULL DEFAULT false,
    PRIMARY KEY (trace_id, started_at)
) PARTITION BY RANGE (started_at);
CREATE INDEX traces_trace_fresh ON traces_trace (target_id, received_at DESC)
    WHERE trained_at IS NULL AND NOT is_held_out AND NOT is_lost;
CREATE INDEX traces_trace_trained ON traces_trace (target_id, trained_at DESC)
    WHERE trained_at IS NOT NULL;
CREATE INDEX traces_trace_held_out ON traces_trace (target_id, domain, received_at DESC)
    WHERE is_held_out;
CREATE INDEX traces_trace_lease ON traces_trace (lease_id) WHERE lease_id IS NOT NULL;
CREATE INDEX traces_trace_segment ON traces_trace (segment_id);
CREATE TABLE traces_trace_default PARTITION OF traces_trace DEFAULT;
"""


class Migration(migrations.Migration):
    dependencies = [("traces", "0001_initial")]
    operations = [migrations.RunSQL(CREATE, "DROP TABLE traces_trace")]
