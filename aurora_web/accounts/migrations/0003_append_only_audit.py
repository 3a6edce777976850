"""The audit log is append-only, and it is the database that says so."""

from django.db import migrations

# One function for every append-only table; the error is one of integrity, so that Django raises IntegrityError.
FUNCTION = """
CREATE OR REPLACE FUNCTION aurora_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'integrity_constraint_violation';
END
$$;
"""
TRIGGER = """
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON accounts_auditevent
FOR EACH ROW EXECUTE FUNCTION aurora_refuse_change();
"""


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0002_audit_request_id"),
    ]

    operations = [
        migrations.RunSQL(FUNCTION, "DROP FUNCTION aurora_refuse_change();"),
        migrations.RunSQL(TRIGGER, "DROP TRIGGER append_only ON accounts_auditevent;"),
    ]
