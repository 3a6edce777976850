from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("rollouts", "0014_replica_policy_detail")]

    operations = [
        migrations.AddField("gatedecision", "told_at", models.DateTimeField(null=True)),
    ]
