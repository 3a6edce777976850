from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("rollouts", "0017_replica_disagreement_before"),
    ]

    operations = [
        migrations.AddField(
            model_name="deployment",
            name="canary_missing_since",
            field=models.DateTimeField(null=True),
        ),
    ]
