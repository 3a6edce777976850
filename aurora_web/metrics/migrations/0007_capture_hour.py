import django.db.models.deletion
from django.db import migrations, models

# The lock keeps a report from being added to a window only.
SUM = """
LOCK TABLE metrics_capturewindow IN SHARE MODE;
INSERT INTO metrics_capturehour (target_id, started_at, num_traces, num_dropped)
SELECT target_id, to_timestamp(floor(extract(epoch FROM started_at) / 3600) * 3600), sum(num_traces), sum(num_dropped)
FROM metrics_capturewindow GROUP BY 1, 2
"""


class Migration(migrations.Migration):
    dependencies = [("metrics", "0006_token_total")]

    operations = [
        migrations.CreateModel(
            name="CaptureHour",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("started_at", models.DateTimeField()),
                ("num_traces", models.BigIntegerField()),
                ("num_dropped", models.BigIntegerField()),
                (
                    "target",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="capture_hours", to="registry.target"
                    ),
                ),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("target", "started_at"), name="one_capture_hour")],
            },
        ),
        migrations.RunSQL(SUM, migrations.RunSQL.noop),
    ]
