from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("rollouts", "0011_alert_told_at")]

    operations = [migrations.AddField("costassumption", "capture_percent", models.FloatField(default=2.0))]
