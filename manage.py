#!/usr/bin/env python
"""Django's command line for the console: migrate, create_token, invite_admin, register, ..."""

from __future__ import annotations

import os
import sys

from django.core.management import execute_from_command_line

from aurora_web import live

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "aurora_web.settings")
    try:
        execute_from_command_line(sys.argv)
    finally:
        live.close()  # here rather than at exit only: a name is not looked up any more while the interpreter ends
