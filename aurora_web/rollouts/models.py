"""Intent (Deployment), what the replicas say (Replica, Alert), and who decided what (GateDecision, Approval)."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from aurora_web.registry.models import SpeculatorVersion, Target


class Deployment(models.Model):
    """What the console wants of a target; ``generation`` counts the changes of mind."""

    target = models.OneToOneField(Target, on_delete=models.CASCADE, related_name="deployment")
    desired = models.ForeignKey(SpeculatorVersion, null=True, on_delete=models.PROTECT, related_name="+")
    previous = models.ForeignKey(SpeculatorVersion, null=True, on_delete=models.PROTECT, related_name="+")
    generation = models.PositiveIntegerField(default=0)
    min_accept_length = models.FloatField(default=0.0)  # collapse threshold of this generation; 0 = none
    is_held = models.BooleanField(default=False)  # a person rolled back: nothing goes live until a person says
    changed_at = models.DateTimeField(default=timezone.now)
    canary = models.ForeignKey(SpeculatorVersion, null=True, on_delete=models.PROTECT, related_name="+")
    canary_started_at = models.DateTimeField(null=True)  # Replica.is_canary says on which replicas
    canary_missing_since = models.DateTimeField(null=True)  # one of its sides has not been there; NULL = both are


class Freeze(models.Model):
    """A person said that no version of a target goes live by itself; no row = the policy decides."""

    target = models.OneToOneField(Target, on_delete=models.CASCADE, related_name="freeze")
    actor = models.CharField(max_length=150)
    reason = models.TextField(blank=True)
    at = models.DateTimeField(default=timezone.now)


class Replica(models.Model):
    """The last ObservedState of one replica of one target."""

    target = models.ForeignKey(Target, on_delete=models.CASCADE, related_name="replicas")
    name = models.CharField(max_length=200)
    engine = models.CharField(max_length=100)
    url = models.CharField(max_length=500)
    host = models.CharField(max_length=255, blank=True)  # the machine's own name; "" = it does not say
    generation = models.IntegerField()
    version = models.IntegerField()
    sha256 = models.CharField(max_length=64, blank=True)
    state = models.CharField(max_length=16)
    detail = models.TextField(blank=True)
    swap_ms = models.FloatField()
    probe_accept_length = models.FloatField()
    probe_num_steps = models.IntegerField()
    num_running = models.IntegerField()
    step_seconds = models.JSONField(default=list)  # of one step by lookahead, as it measured; [] = it has not
    num_dropped_traces = models.BigIntegerField()
    spool_bytes = models.BigIntegerField()
    reported_at = models.DateTimeField()  # the replica's clock
    seen_at = models.DateTimeField()  # ours
    is_alive = models.BooleanField(default=True)
    connected_at = models.DateTimeField(default=timezone.now)  # first report ever
    is_canary = models.BooleanField(default=False)  # desires Deployment.canary; kept while the canary lasts
    # Capture
    capture_state = models.CharField(max_length=16, default="working")
    capture_detail = models.TextField(blank=True)
    num_traces = models.BigIntegerField(default=0)
    queue_bytes = models.BigIntegerField(default=0)
    traces_per_second = models.FloatField(null=True)  # over the last ten seconds or so
    # Counters since the replica's start, as our records and as the engine's own metrics have them
    num_verify_steps = models.BigIntegerField(default=0)
    num_accept_tokens = models.BigIntegerField(default=0)
    engine_num_verify_steps = models.BigIntegerField(default=0)
    engine_num_accept_tokens = models.BigIntegerField(default=0)
    # The last window over which both were compared (rollouts/counters.py)
    accept_length = models.FloatField(null=True)
    engine_accept_length = models.FloatField(null=True)
    compared_steps = models.BigIntegerField(default=0)
    compared_at = models.DateTimeField(null=True)
    disagreement_before = models.FloatField(null=True)  # ours over the engine's, minus 1, in the window before that one
    marks = models.JSONField(default=dict)  # counters at the start of the current windows
    # Proof
    ranks = models.JSONField(default=list)  # sha256 of the draft on every tensor-parallel rank; [] = one process
    target_sha256 = models.CharField(max_length=64, blank=True)
    first_target_sha256 = models.CharField(max_length=64, blank=True)  # the first one since the replica's start
    # Pins (rollouts/obedience.py)
    pins_revision = models.IntegerField(default=-1)  # that it runs; -1 = it knows of no pins
    pins_obeyed = models.JSONField(default=list)  # kinds of pins that its engine can obey
    pins_detail = models.TextField(blank=True)
    policy_detail = models.TextField(blank=True)  # what of the target's policy its engine does not obey, and why

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["target", "name"], name="one_row_per_replica")]


class Rule(models.TextChoices):
    CAPTURE_BROKEN = "capture_broken", "Capture broken"
    REPLICA_BEHIND = "replica_behind", "Replica behind"
    SWAP_FAILED = "swap_failed", "Swap failed"
    ACCEPT_LENGTH_DISAGREES = "accept_length_disagrees", "Accept lengths disagree"
    TARGET_CHANGED = "target_changed", "Target weights changed"
    TARGET_SILENT = "target_silent", "No replica reports"
    ACCEPT_LENGTH_FELL = "accept_length_fell", "Accept length fell"
    SPEEDUP_BELOW_ONE = "speedup_below_one", "Slower than no speculation"
    TRAINER_STALLED = "trainer_stalled", "Trainer stalled"
    SPOOL_GROWING = "spool_growing", "Spool growing"
    DISK_LOW = "disk_low", "Disk nearly full"
    FIGURES_STALLED = "figures_stalled", "Figures stand still"


class AlertState(models.TextChoices):
    PENDING = "pending"  # true, but not for long enough
    FIRING = "firing"
    RESOLVED = "resolved"


class Alert(models.Model):
    """One episode of something that a person should know; a new episode is a new row."""

    # None = the console itself: its disk, its figures
    target = models.ForeignKey(Target, null=True, on_delete=models.CASCADE, related_name="alerts")
    replica = models.CharField(max_length=200, blank=True)  # or a domain, or a directory; "" = the target as a whole
    rule = models.CharField(max_length=32, choices=Rule.choices)
    state = models.CharField(max_length=16, choices=AlertState.choices)
    subject = models.CharField(max_length=200, blank=True)  # what must stay the same while it is pending
    detail = models.TextField()  # one sentence, with numbers
    since = models.DateTimeField()
    fired_at = models.DateTimeField(null=True)
    told_at = models.DateTimeField(null=True)  # None = nobody was told that it fires: a silence covers it
    ended_at = models.DateTimeField(null=True)
    # Since when its rule has no data about it; still set when it ended so: then nobody knows whether it is over
    unknown_since = models.DateTimeField(null=True)
    unknown_why = models.CharField(max_length=300, blank=True, db_default="")

    class Meta:
        ordering = ["-since", "-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["target", "rule", "replica"],
                condition=models.Q(ended_at=None),
                name="one_open_alert",
                nulls_distinct=False,
            )
        ]
        indexes = [models.Index(fields=["state", "-id"], name="alert_state")]

    def __str__(self) -> str:
        return f"{self.target_slug or 'console'} {self.rule} {self.replica}: {self.state}"

    @property
    def target_slug(self) -> str:
        """The target's slug; "" = the console itself."""
        return self.target.slug if self.target else ""

    @property
    def state_words(self) -> str:
        """Its state, and whether the rule knows of it."""
        if self.unknown_since is None:
            return AlertState(self.state).label
        return "Firing, no data" if self.ended_at is None else "Closed, not known"


class RuleState(models.TextChoices):
    NORMAL = "normal", "Normal"
    PENDING = "pending", "Pending"
    FIRING = "firing", "Firing"
    NO_DATA = "no_data", "No data"
    ERROR = "error", "Error"


class RuleReport(models.Model):
    """What every rule found at one target when it was last asked: {rule: {"state", "detail"}}."""

    target = models.OneToOneField(Target, null=True, on_delete=models.CASCADE, related_name="rule_report")
    at = models.DateTimeField()
    rules = models.JSONField(default=dict)


class RuleSetting(models.Model):
    """A threshold of one rule at one target that differs from the default (rollouts/rules.py)."""

    target = models.ForeignKey(Target, null=True, on_delete=models.CASCADE, related_name="rule_settings")
    rule = models.CharField(max_length=32, choices=Rule.choices)
    threshold = models.FloatField(null=True)  # None = the default
    is_enabled = models.BooleanField(default=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["target", "rule"], name="one_setting_per_rule", nulls_distinct=False)
        ]


class Silence(models.Model):
    """Alerts that match still fire, but nobody is told until it expires or somebody ends it; then of those left."""

    target = models.ForeignKey(Target, null=True, on_delete=models.CASCADE, related_name="silences")  # None = all
    rule = models.CharField(max_length=32, choices=Rule.choices, blank=True)  # "" = all
    replica = models.CharField(max_length=200, blank=True)  # "" = all
    reason = models.TextField()
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField(db_index=True)  # moved to now when somebody ends it
    ended_by = models.CharField(max_length=150, blank=True)

    class Meta:
        ordering = ["-expires_at"]

    def covers(self, alert: Alert) -> bool:
        return (
            self.target_id in (None, alert.target_id)
            and self.rule in ("", alert.rule)
            and self.replica in ("", alert.replica)
        )


class ChannelKind(models.TextChoices):
    WEBHOOK = "webhook", "Webhook, signed"
    EMAIL = "email", "E-mail"


class Channel(models.Model):
    """Where notifications go."""

    name = models.CharField(max_length=100, unique=True)
    kind = models.CharField(max_length=16, choices=ChannelKind.choices)
    address = models.CharField(max_length=500)  # a URL, or e-mail addresses with commas between them
    secret = models.CharField(max_length=100, blank=True)  # the webhook's HMAC key; shown when it is made, never again
    is_enabled = models.BooleanField(default=True)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class DeliveryState(models.TextChoices):
    WAITING = "waiting"
    DELIVERED = "delivered"
    FAILED = "failed"  # after the last attempt


class Delivery(models.Model):
    """One notification to one channel, with all its attempts."""

    channel = models.ForeignKey(Channel, on_delete=models.CASCADE, related_name="deliveries")
    event = models.CharField(max_length=32)  # "alert.firing", "alert.resolved", "approval.waiting" or "test"
    payload = models.JSONField()
    state = models.CharField(max_length=16, choices=DeliveryState.choices, default=DeliveryState.WAITING)
    num_attempts = models.PositiveSmallIntegerField(default=0)
    answer = models.CharField(max_length=300, blank=True)  # of the last attempt, in words
    created_at = models.DateTimeField(default=timezone.now)
    due_at = models.DateTimeField(default=timezone.now)  # of the next attempt
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["due_at"], condition=models.Q(state="waiting"), name="delivery_waiting"),
            models.Index(fields=["channel", "-id"], name="delivery_channel"),
        ]


class GateDecision(models.Model):
    """The gate's verdict on one version, with reasons in words."""

    version = models.OneToOneField(SpeculatorVersion, on_delete=models.CASCADE, related_name="gate_decision")
    passed = models.BooleanField()
    reasons = models.JSONField()  # list of sentences
    domains = models.JSONField()  # list of DomainVerdict
    policy = models.JSONField()  # the policy it was judged by
    accept_length = models.FloatField(null=True)  # by replay, all domains, by their shares of the traffic
    gain = models.FloatField(null=True)  # accept_length over live's - 1
    gain_low = models.FloatField(null=True)
    gain_high = models.FloatField(null=True)
    # Estimates: speed relative to no speculation, from the replay and from what a replica says that steps cost
    predicted_speedup = models.FloatField(null=True)
    live_predicted_speedup = models.FloatField(null=True)
    at = models.DateTimeField(default=timezone.now)
    live_number = models.PositiveIntegerField(null=True)  # what was live then: 0 = nothing, None = not recorded
    requested_by = models.CharField(max_length=150, blank=True)  # who asked to have it judged again; "" = nobody
    told_at = models.DateTimeField(null=True)  # since when people know that it waits for one of them

    @property
    def predicted_speed_gain(self) -> float | None:
        """Predicted speed over that of what was live then - 1."""
        if self.predicted_speedup is None or not self.live_predicted_speedup:
            return None
        return self.predicted_speedup / self.live_predicted_speedup - 1


class Approval(models.Model):
    """A person's (or the policy's) word on one version; append-only."""

    version = models.ForeignKey(SpeculatorVersion, on_delete=models.CASCADE, related_name="approvals")
    is_approved = models.BooleanField()
    actor = models.CharField(max_length=150)
    reason = models.TextField(blank=True)
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-at"]


class CostAssumption(models.Model):
    """What an hour costs, as somebody has said; the page about economics multiplies with it and shows it."""

    target = models.OneToOneField(Target, on_delete=models.CASCADE, related_name="costs")
    engine_hour = models.FloatField(default=2.0)  # one engine (one replica with its GPUs), busy
    trainer_hour = models.FloatField(default=2.0)  # one trainer, busy
    capture_percent = models.FloatField(default=2.0)  # of an engine's time; tests/bench/bench_sglang.py measures it
    currency = models.CharField(max_length=8, default="USD")
    changed_at = models.DateTimeField(default=timezone.now)


class SwapKind(models.TextChoices):
    PROMOTE = "promote"
    CANARY = "canary"  # on some replicas
    END_CANARY = "end_canary", "end of a canary"
    ROLLBACK = "rollback"
    REVERT = "revert"  # by itself: a collapse, or a replica that could not swap


class Swap(models.Model):
    """One generation of intent, from the moment it was written until every replica said that it runs it."""

    target = models.ForeignKey(Target, on_delete=models.CASCADE, related_name="swaps")
    generation = models.PositiveIntegerField()
    kind = models.CharField(max_length=16, choices=SwapKind.choices)
    old_number = models.PositiveIntegerField()  # 0 = without speculation
    number = models.PositiveIntegerField()
    canary_number = models.PositiveIntegerField(default=0)  # 0 = none
    actor = models.CharField(max_length=150)
    at = models.DateTimeField()  # of the intent
    expected = models.JSONField(default=list)  # names of the replicas that were alive then
    completed_at = models.DateTimeField(null=True)  # when the last of those reported

    class Meta:
        ordering = ["-generation"]
        constraints = [models.UniqueConstraint(fields=["target", "generation"], name="one_swap_per_generation")]

    def __str__(self) -> str:
        return f"{self.target.slug} generation {self.generation}"


class SwapArrival(models.Model):
    """The first report of a replica that it runs what a swap wanted of it; the time is the console's."""

    swap = models.ForeignKey(Swap, on_delete=models.CASCADE, related_name="arrivals")
    replica = models.CharField(max_length=200)
    version = models.PositiveIntegerField()
    at = models.DateTimeField()
    swap_ms = models.FloatField()  # as the engine measured the switch itself

    class Meta:
        ordering = ["at"]
        constraints = [models.UniqueConstraint(fields=["swap", "replica"], name="one_arrival_per_replica")]
