import django.db.models.deletion
from django.db import migrations, models

# What is kept is where the total begins; the lock keeps a roll-up from adding a window in between.
BEGIN = """
LOCK TABLE metrics_metricwindow IN SHARE MODE;
INSERT INTO metrics_tokentotal (target_id, domain, num_accept_tokens)
SELECT target_id, domain, sum(num_accept_tokens) FROM metrics_metricwindow GROUP BY target_id, domain
"""


class Migration(migrations.Migration):
    dependencies = [
        ("metrics", "0005_roll_ups"),
        ("registry", "0006_append_only_transitions"),
    ]

    operations = [
        migrations.CreateModel(
            name="TokenTotal",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("domain", models.CharField(max_length=100)),
                ("num_accept_tokens", models.BigIntegerField()),
                (
                    "target",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="token_totals", to="registry.target"
                    ),
                ),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("target", "domain"), name="one_token_total")],
            },
        ),
        migrations.RunSQL(BEGIN, migrations.RunSQL.noop),
    ]
