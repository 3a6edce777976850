"""Which versions drafted for a request that a swap reached; NULL, as for nearly all, where one did."""

from django.db import migrations

CREATE = "ALTER TABLE traces_trace ADD COLUMN version_spans jsonb"
DROP = "ALTER TABLE traces_trace DROP COLUMN version_spans"


class Migration(migrations.Migration):
    dependencies = [("traces", "0009_plain_steps")]
    operations = [migrations.RunSQL(CREATE, DROP)]
