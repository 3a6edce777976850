"""Changes of status are append-only, and it is the database that says so."""

from django.db import migrations

TRIGGER = """
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON registry_transition
FOR EACH ROW EXECUTE FUNCTION aurora_refuse_change();
"""


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0003_append_only_audit"),
        ("registry", "0005_approval_policy"),
    ]

    operations = [migrations.RunSQL(TRIGGER, "DROP TRIGGER append_only ON registry_transition;")]
