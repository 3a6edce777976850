from django.apps.registry import Apps
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor


def those_so_far_count_as_told(apps: Apps, _: BaseDatabaseSchemaEditor) -> None:
    apps.get_model("rollouts", "Alert").objects.update(told_at=models.F("fired_at"))


class Migration(migrations.Migration):
    dependencies = [("rollouts", "0010_gate_accept_length")]

    operations = [
        migrations.AddField("alert", "told_at", models.DateTimeField(null=True)),
        migrations.RunPython(those_so_far_count_as_told, migrations.RunPython.noop),
    ]
