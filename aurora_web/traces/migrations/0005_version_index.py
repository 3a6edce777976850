"""The newest traces that one version served."""

from django.db import migrations

CREATE = "CREATE INDEX IF NOT EXISTS traces_trace_version ON traces_trace (target_id, version, received_at DESC)"


class Migration(migrations.Migration):
    dependencies = [("traces", "0004_domain_rules")]
    operations = [migrations.RunSQL(CREATE, "DROP INDEX IF EXISTS traces_trace_version")]
