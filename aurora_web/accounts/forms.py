from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.utils import timezone

from aurora_web.accounts.models import Role
from aurora_web.accounts.scopes import MEANINGS, grantable


class InviteForm(forms.Form):
    """A user name and a password, chosen by the one who was invited."""

    username = forms.CharField(max_length=150, label="User name", widget=forms.TextInput({"autocomplete": "username"}))
    password = forms.CharField(
        label="Password",
        help_text="At least 10 characters.",
        widget=forms.PasswordInput({"autocomplete": "new-password"}),
    )
    repeated = forms.CharField(label="Password again", widget=forms.PasswordInput({"autocomplete": "new-password"}))

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if cleaned.get("password") and cleaned.get("repeated") and cleaned["password"] != cleaned["repeated"]:
            self.add_error("repeated", "The two passwords differ.")
        return cleaned


class NewInviteForm(forms.Form):
    role = forms.ChoiceField(choices=Role.choices, initial=Role.VIEWER)


class RoleForm(forms.Form):
    role = forms.ChoiceField(choices=Role.choices)


class NewTokenForm(forms.Form):
    name = forms.CharField(max_length=100, label="Name", help_text="Who or what uses it.")
    scopes = forms.MultipleChoiceField(
        widget=forms.CheckboxSelectMultiple,
        label="Scopes",
        help_text="What it may do, and nothing else. It never may more than the role of the one who made it.",
        error_messages={"required": "Choose one scope at least: a token without any can do nothing."},
    )
    days = forms.TypedChoiceField(
        choices=[("30", "30 days"), ("90", "90 days"), ("365", "one year"), ("", "never")],
        coerce=int,
        empty_value=None,
        required=False,
        initial="90",
        label="Expires after",
        help_text="Engines that run for long: never, and revoke it when the engine goes.",
    )

    def __init__(self, *args: Any, maker_scopes: frozenset[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        allowed = grantable(maker_scopes)
        choices = [(scope, f"{scope}: {meaning}") for scope, meaning in MEANINGS.items() if scope in allowed]
        self.fields["scopes"].choices = choices  # type: ignore[attr-defined]  # a MultipleChoiceField

    def expires_at(self) -> datetime | None:
        """When the token ends; None = never."""
        days = self.cleaned_data["days"]
        return timezone.now() + timedelta(days=days) if days else None
