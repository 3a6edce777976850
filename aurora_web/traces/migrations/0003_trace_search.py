"""Search: sums over the steps of each trace, one covering index by time; deleted traces; who may read text."""

import uuid

import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models

from aurora_web.traces.codec import unpack_pairs

BATCH = 2000
COLUMNS = """
ALTER TABLE traces_trace
    ADD COLUMN IF NOT EXISTS num_verify_steps integer NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS num_proposed_drafts integer NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS num_correct_drafts integer NOT NULL DEFAULT 0;
"""
DROP_COLUMNS = """
ALTER TABLE traces_trace DROP COLUMN num_verify_steps, DROP COLUMN num_proposed_drafts, DROP COLUMN num_correct_drafts;
"""
# Everything that a search filters by is in the index: a rare trace is found without reading the tokens of others.
INDEX = """
CREATE INDEX IF NOT EXISTS traces_trace_search ON traces_trace (target_id, started_at DESC, trace_id DESC)
    INCLUDE (domain, version, finish_reason, num_verify_steps, num_correct_drafts, is_held_out, trained_at);
"""


def fill(apps, schema_editor):
    """The sums of the traces that are there already, a batch at a time."""
    last = uuid.UUID(int=0)
    with schema_editor.connection.cursor() as cursor:
        while True:
            cursor.execute(
                "SELECT trace_id, steps FROM traces_trace WHERE trace_id > %s ORDER BY trace_id LIMIT %s", [last, BATCH]
            )
            rows = cursor.fetchall()
            if not rows:
                return
            last = rows[-1][0]
            cursor.executemany(
                "UPDATE traces_trace SET num_verify_steps = %s, num_proposed_drafts = %s, num_correct_drafts = %s"
                " WHERE trace_id = %s",
                [(*_sums(unpack_pairs(steps)), trace_id) for trace_id, steps in rows],
            )


def _sums(pairs):
    return len(pairs), sum(len(proposed) for _, proposed in pairs), sum(correct for correct, _ in pairs)


class Migration(migrations.Migration):
    atomic = False  # the fill commits row by row; interrupted, the migration begins again
    dependencies = [("registry", "0004_sglang"), ("traces", "0002_trace_table")]
    operations = [
        migrations.RunSQL(COLUMNS, DROP_COLUMNS),
        migrations.RunPython(fill, migrations.RunPython.noop),
        migrations.RunSQL(INDEX, "DROP INDEX traces_trace_search"),
        migrations.CreateModel(
            name="DeletedTrace",
            fields=[
                ("trace_id", models.UUIDField(primary_key=True, serialize=False)),
                ("segment_id", models.UUIDField()),
                ("was_trained", models.BooleanField()),
                ("actor", models.CharField(max_length=150)),
                ("reason", models.TextField()),
                ("at", models.DateTimeField(default=django.utils.timezone.now)),
                (
                    "target",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="deleted_traces",
                        to="registry.target",
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="TraceAccess",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "text_role",
                    models.CharField(
                        choices=[
                            ("viewer", "Everybody who can sign in"),
                            ("operator", "Operators and admins"),
                            ("admin", "Admins only"),
                        ],
                        default="operator",
                        max_length=16,
                    ),
                ),
                (
                    "target",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="trace_access",
                        to="registry.target",
                    ),
                ),
            ],
        ),
    ]
