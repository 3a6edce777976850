"""A verify step's integers, taken apart, and the path through its tree that a StepRecord can hold."""

from __future__ import annotations

from dataclasses import dataclass

from serving.sglang_backend.events import Step


@dataclass(frozen=True, slots=True)
class StepRows:
    """Per request of a batch; nodes count from 0, the root, within each request."""

    accept_lens: list[int]  # bonus token included
    accept_index: list[list[int]]  # rows in the batch of the accepted nodes, then -1
    tokens: list[list[int]]  # of every node
    starts: list[int]  # position of the root
    next_token: list[list[int]] | None  # first child, -1 = none; None for a chain
    next_sibling: list[list[int]] | None
    num_final: int  # leading rows of ``final`` that are of this step


def take_apart(step: Step) -> StepRows:
    """Read the flat integers of a step, in the order that ``Step`` gives."""
    num, nodes = len(step.rids), step.num_nodes
    flat = step.integers.tensor.tolist()
    num_final = flat.pop() if step.is_replayed else num * nodes
    width = (len(flat) - num - (4 if step.is_tree else 2) * num * nodes) // num
    place = 0

    def rows(columns: int) -> list[list[int]]:
        nonlocal place
        taken = [flat[place + i * columns : place + (i + 1) * columns] for i in range(num)]
        place += num * columns
        return taken

    lens, index, tokens, positions = rows(1), rows(width), rows(nodes), rows(nodes)
    children, siblings = (rows(nodes), rows(nodes)) if step.is_tree else (None, None)
    starts = [row[0] for row in positions]
    return StepRows([row[0] for row in lens], index, tokens, starts, children, siblings, num_final)


def proposed_path(rows: StepRows, row: int) -> tuple[int, ...]:
    """The drafts of one request along one path, root excluded: the accepted ones, then the likeliest rejected ones.

    A chain has one path. In a tree first children are the likeliest, so the path goes on with them below the last
    accepted node; its other branches are not recorded.
    """
    tokens = rows.tokens[row]
    if rows.next_token is None:
        return tuple(tokens[1:])
    begin = row * len(tokens)
    path = [index - begin for index in rows.accept_index[row][: rows.accept_lens[row]]]
    node = rows.next_token[row][path[-1]]
    while node != -1:
        path.append(node)
        node = rows.next_token[row][node]
    return tuple(tokens[node] for node in path[1:])
