"""What people, policies and replicas did, as sentences: the actions of the audit log in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# {subject}: what the log names, like "demo v12", "demo" or "user ada"; {words}: a pin's own.
WORDS = {
    "alert.rule": "changed the rule {subject}",
    "alert.silence": "silenced alerts of {subject}",
    "alert.unsilence": "ended a silence of {subject}",
    "canary.abort": "ended the canary of {subject}",
    "canary.promote": "promoted {subject} from its canary",
    "canary.start": "put {subject} into canary",
    "channel.create": "made the {subject}",
    "channel.delete": "deleted the {subject}",
    "channel.test": "tested the {subject}",
    "domain.pin": "pinned the domain {subject}: {words}",
    "domain.pin_undo": "changed the pin of the domain {subject} back, to {words}",
    "domain.rule": "made a rule for the names of domains, {subject}",
    "domain.rule_end": "ended a rule for the names of domains, {subject}",
    "domain.unpin": "unpinned the domain {subject}",
    "invite.accept": "followed an invitation and is {subject}",
    "invite.create": "made an {subject}",
    "invite.revoke": "revoked the {subject}",
    "retention.change": "changed for how long data is kept",
    "target.costs": "changed what is assumed to cost money at {subject}",
    "target.freeze": "froze {subject}: no version goes live by itself",
    "target.register": "registered {subject}",
    "target.resume": "ended the hold of {subject} after a rollback",
    "target.settings": "changed settings of {subject}",
    "target.unfreeze": "unfroze {subject}: the policy decides again",
    "token.create": "made the {subject}",
    "token.revoke": "revoked the {subject}",
    "trace.access": "changed who may read texts of {subject}",
    "trace.delete": "deleted the trace {subject}",
    "trace.read": "read the text of the trace {subject}",
    "trace.export": "exported traces of {subject}",
    "training.now": "asked for a training slice of {subject} at once",
    "training.pause": "paused training of {subject}",
    "training.resume": "resumed training of {subject}",
    "user.active": "changed whether {subject} may log in",
    "user.create": "made the {subject}",
    "user.preferences": "changed preferences of {subject}",
    "user.refuse": "refused {subject}",
    "user.role": "changed the role of {subject}",
    "user.role_kept": "kept the role of {subject}",
    "version.approve": "approved {subject}",
    "version.download": "downloaded a file of {subject}",
    "version.judge": "had {subject} judged again",
    "version.promote": "put {subject} live",
    "version.reject": "rejected {subject}",
    "version.rollback": "rolled {subject} back",
}
READINGS = ("trace.read",)  # they change nothing, and are many: told in the audit log alone
CHANGES_SAID = {"target.settings", "retention.change"}  # which fields, where the subject does not say it


def what_was_done(action: str, subject: str, reason: str, detail: Mapping[str, Any]) -> str:
    """``put demo v12 live: +4 % accept length``; an action that has no words stands as it is, with its subject."""
    words = WORDS.get(action, f"{action} {{subject}}")
    said = words.format(subject=subject, words=detail.get("words", ""))
    new = detail.get("new")
    if action in CHANGES_SAID and isinstance(new, dict) and new:
        said += f" ({', '.join(name.replace('_', ' ') for name in new)})"
    return f"{said}: {reason}" if reason else said
