"""How a process that has asked the database ends."""

from tests.unit.aurora_web.ending import ending_after

ASK = """
from django.db import connection
with connection.cursor() as cursor:
    cursor.execute("SELECT 1")
"""


def test_no_thread_of_the_pool_is_left_when_the_interpreter_ends():
    """A daemon thread that wakes during the interpreter's end has aborted the process."""
    ending = ending_after(ASK)
    assert any("pool" in name for name in ending.after_act), "else this test says nothing"
    assert ending.left == ["MainThread"]
