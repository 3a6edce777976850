from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("rollouts", "0012_capture_percent")]

    operations = [
        migrations.AddField("replica", "step_seconds", models.JSONField(default=list)),
        migrations.AddField("gatedecision", "predicted_speedup", models.FloatField(null=True)),
        migrations.AddField("gatedecision", "live_predicted_speedup", models.FloatField(null=True)),
    ]
