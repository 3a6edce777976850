"""Traces with their hidden states: from segment files, else recomputed by the target, else missing.

States of other layers than the draft reads are as good as none: a draft would learn to read what it is never given.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from training_worker.batches import Example, Teacher
from training_worker.config import TraceSource
from training_worker.target import EVERYTHING, Target, Use

log = logging.getLogger(__name__)
CACHE_BYTES = 64 << 20  # of each use: what is held out stays there beside all that is learnt from
ANSWER_BYTES = 64 << 20  # a fiftieth of a trace's states, and most of the time that loading one takes
DTYPES = (torch.float16, torch.bfloat16, torch.float32)  # that states may have; engines write the first
Key = tuple[str, Use]  # of a trace


class Recent:
    """The examples of one use that were used last, by trace id: as many as there is room for."""

    def __init__(self) -> None:
        self._examples: OrderedDict[str, Example] = OrderedDict()
        self._num_bytes = 0

    def __contains__(self, trace_id: object) -> bool:
        return trace_id in self._examples

    def get(self, trace_id: str) -> Example | None:
        if trace_id in self._examples:
            self._examples.move_to_end(trace_id)
        return self._examples.get(trace_id)

    def add(self, example: Example) -> None:
        self._examples[example.source.trace_id] = example
        self._num_bytes += example.num_bytes
        while self._num_bytes > CACHE_BYTES and len(self._examples) > 1:
            _, oldest = self._examples.popitem(last=False)
            self._num_bytes -= oldest.num_bytes


class Examples:
    """Loads examples; those used last stay in memory, so that their states are neither read nor recomputed again."""

    def __init__(self, target: Target, aux_layer_ids: tuple[int, ...]) -> None:
        self.target = target
        self.aux_layer_ids = aux_layer_ids
        self._recent: defaultdict[Use, Recent] = defaultdict(Recent)
        self._answers: OrderedDict[Key, tuple[Teacher, Tensor]] = OrderedDict()
        self._answer_bytes = 0
        self._of_others: set[str] = set()  # segments with states of other layers that the log has told of

    def load(self, sources: Iterable[TraceSource], use: Use = EVERYTHING) -> tuple[list[Example], list[str]]:
        """(examples, ids of traces whose states are gone and could not be recomputed)."""
        found, missing = [], []
        with ExitStack() as stack:
            files: dict[str, Any] = {}
            for source in sources:
                example = self._recent[use].get(source.trace_id)
                if example is None:
                    example = self._read(source, use, files, stack) or self._recompute(source, use)
                    if example is None:
                        missing.append(source.trace_id)
                        continue
                    self._recent[use].add(example)
                found.append(example)
        return found, missing

    def are_at_hand(self, source: TraceSource, use: Use) -> bool:
        """Whether a trace's states are in memory or in a file, as far as that can be seen without opening it."""
        if source.trace_id in self._recent[use]:
            return True
        return bool(source.segment_uri) and self._are_its_layers(source) and Path(source.segment_uri).exists()

    def _read(self, source: TraceSource, use: Use, files: dict[str, Any], stack: ExitStack) -> Example | None:
        if not source.segment_uri or not self._are_its_layers(source):
            return None
        try:
            if source.segment_uri not in files:
                files[source.segment_uri] = stack.enter_context(safe_open(source.segment_uri, framework="pt"))
            tensors = files[source.segment_uri]
            states, final = (tensors.get_tensor(f"{source.trace_id}.{name}") for name in ("states", "final"))
        except (OSError, SafetensorError) as error:
            log.warning("segment %s of trace %s: %s", source.segment_uri, source.trace_id, error)
            return None
        if problem := self._problem(source, states, final):
            log.warning("trace %s %s", source.trace_id, problem)
            return None
        return self._answered(source, use, states, final)

    def _problem(self, source: TraceSource, states: Tensor, final: Tensor) -> str:
        """Why states of a file cannot be the trace's, or be learnt from; "" = they can. One would fail every slice."""
        width = self.target.embed_VH.shape[1]
        for name, tensor, num_layers in (("states", states, len(self.aux_layer_ids)), ("final", final, 1)):
            expected = (source.num_positions, num_layers * width)
            if tensor.shape != expected or tensor.dtype not in DTYPES:
                return f"has {name} {list(tensor.shape)} of {tensor.dtype}, expected {list(expected)} of float16"
            if not tensor.isfinite().all():  # one would be in every weight after a step
                return f"has {name} that are no finite numbers"
        return ""

    def _are_its_layers(self, source: TraceSource) -> bool:
        is_right = source.aux_layer_ids == self.aux_layer_ids
        if not is_right and source.segment_uri not in self._of_others:
            self._of_others.add(source.segment_uri)
            ids = f"{source.aux_layer_ids}, the draft reads {self.aux_layer_ids}"
            log.warning("segment %s has states of layers %s", source.segment_uri, ids)
        return is_right

    def _answered(self, source: TraceSource, use: Use, features: Tensor, final: Tensor) -> Example:
        """What the target says of a trace's states is asked once, for as long as there is room for its answers."""
        key = source.trace_id, use
        known = self._answers.get(key)
        if known is not None:
            self._answers.move_to_end(key)
            return Example(source, features, *known)
        example = self.target.example(source, features, final, use)
        self._answers[key] = example.teacher, example.emitted
        self._answer_bytes += _num_bytes(example.teacher, example.emitted)
        while self._answer_bytes > ANSWER_BYTES:
            self._answer_bytes -= _num_bytes(*self._answers.popitem(last=False)[1])
        return example

    def _recompute(self, source: TraceSource, use: Use) -> Example | None:
        try:
            return self.target.recompute(source, self.aux_layer_ids, use)
        except torch.OutOfMemoryError:  # says nothing about the trace
            raise
        except (OSError, ValueError, RuntimeError, IndexError, SafetensorError) as error:
            log.warning("trace %s cannot be recomputed: %s", source.trace_id, error)
            return None


def _num_bytes(teacher: Teacher, emitted: Tensor) -> int:
    return teacher.num_bytes + emitted.nbytes
