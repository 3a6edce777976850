from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("rollouts", "0013_predicted_speedup")]

    operations = [
        migrations.AddField("replica", "policy_detail", models.TextField(blank=True)),
    ]
