from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("training", "0002_training_pause"),
    ]

    operations = [
        migrations.AddField(
            model_name="trainingslice",
            name="requested_by",
            field=models.CharField(blank=True, max_length=150),
        ),
    ]
