"""Approvals are append-only, and it is the database that says so."""

from django.db import migrations

TRIGGER = """
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON rollouts_approval
FOR EACH ROW EXECUTE FUNCTION aurora_refuse_change();
"""


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0003_append_only_audit"),
        ("rollouts", "0005_swaps_and_staleness"),
    ]

    operations = [migrations.RunSQL(TRIGGER, "DROP TRIGGER append_only ON rollouts_approval;")]
