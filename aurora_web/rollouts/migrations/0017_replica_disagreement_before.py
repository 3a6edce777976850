from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("rollouts", "0016_replica_host"),
    ]

    operations = [
        migrations.AddField(
            model_name="replica",
            name="disagreement_before",
            field=models.FloatField(null=True),
        ),
    ]
