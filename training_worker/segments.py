"""Traces with their hidden states: from segment files, else recomputed by the target, else missing."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from training_worker.batches import Example, Teacher
from training_worker.config import TraceSource
from training_worker.target import Target

log = logging.getLogger(__name__)
CACHE_BYTES = 256 << 20
TEACHER_BYTES = 64 << 20  # a fiftieth of a trace's states, and most of the time that loading one takes


class Examples:
    """Loads examples; those used last stay in memory, so that replay does not read the same files again."""

    def __init__(self, target: Target, aux_layer_ids: tuple[int, ...]) -> None:
        self.target = target
        self.aux_layer_ids = aux_layer_ids
        self._cache: OrderedDict[str, Example] = OrderedDict()
        self._cache_bytes = 0
        self._teachers: OrderedDict[str, Teacher] = OrderedDict()
        self._teacher_bytes = 0

    def load(self, sources: Iterable[TraceSource]) -> tuple[list[Example], list[str]]:
        """(examples, ids of traces whose states are gone and could not be recomputed)."""
        found, missing = [], []
        with ExitStack() as stack:
            files: dict[str, Any] = {}
            for source in sources:
                example = (
                    self._cache.get(source.trace_id) or self._read(source, files, stack) or self._recompute(source)
                )
                if example is None:
                    missing.append(source.trace_id)
                    continue
                self._keep(example)
                found.append(example)
        return found, missing

    def _read(self, source: TraceSource, files: dict[str, Any], stack: ExitStack) -> Example | None:
        if not source.segment_uri:
            return None
        try:
            if source.segment_uri not in files:
                files[source.segment_uri] = stack.enter_context(safe_open(source.segment_uri, framework="pt"))
            tensors = files[source.segment_uri]
            example = self._with_teacher(
                source, tensors.get_tensor(f"{source.trace_id}.states"), tensors.get_tensor(f"{source.trace_id}.final")
            )
        except (OSError, SafetensorError) as error:
            log.warning("segment %s of trace %s: %s", source.segment_uri, source.trace_id, error)
            return None
        if example.num_positions != len(source.tokens) - 1 - source.first_state:
            log.warning(
                "trace %s has %d states for %d tokens", source.trace_id, example.num_positions, len(source.tokens)
            )
            return None
        return example

    def _with_teacher(self, source: TraceSource, features: Tensor, final: Tensor) -> Example:
        """What the target says of a trace's states is asked once, for as long as there is room for its answers."""
        known = self._teachers.get(source.trace_id)
        if known is not None and len(known.ids) == len(features):
            self._teachers.move_to_end(source.trace_id)
            return Example(source, features, known)
        example = self.target.example(source, features, final)
        self._teachers[source.trace_id] = example.teacher
        self._teacher_bytes += example.teacher.num_bytes
        while self._teacher_bytes > TEACHER_BYTES:
            self._teacher_bytes -= self._teachers.popitem(last=False)[1].num_bytes
        return example

    def _recompute(self, source: TraceSource) -> Example | None:
        try:
            return self.target.recompute(source, self.aux_layer_ids)
        except torch.OutOfMemoryError:  # says nothing about the trace
            raise
        except (OSError, ValueError, RuntimeError, IndexError, SafetensorError) as error:
            log.warning("trace %s cannot be recomputed: %s", source.trace_id, error)
            return None

    def _keep(self, example: Example) -> None:
        trace_id = example.source.trace_id
        if trace_id not in self._cache:
            self._cache_bytes += example.num_bytes
        self._cache[trace_id] = example
        self._cache.move_to_end(trace_id)
        while self._cache_bytes > CACHE_BYTES and len(self._cache) > 1:
            _, oldest = self._cache.popitem(last=False)
            self._cache_bytes -= oldest.num_bytes
