"""The tree of drafts: built before a verify step, walked greedily after it. A chain is a tree with one branch."""

from __future__ import annotations

import torch

FULL_MASK, QLEN_ONLY = 0, 1


def _parents(selected: list[int], parents: list[int], num: int, topk: int) -> list[int]:
    """Parent node of nodes 1 .. num - 1; node 0 is the root. -1: not in the tree."""
    places: dict[int, int] = {}
    for place, score in enumerate(selected[: num - 1]):
        places.setdefault(score, place)
    found = [-1] * num
    for node in range(1, num):
        group = selected[node - 1] // topk
        if group == 0:
            found[node] = 0
        elif (place := places.get(parents[group])) is not None:
            found[node] = place + 1
    return found


def _links(parents: list[int]) -> tuple[list[int], list[int]]:
    """(first child, next sibling) of every node, -1 = none; children in rising order."""
    child, sibling = [-1] * len(parents), [-1] * len(parents)
    for node in range(len(parents) - 1, 0, -1):
        parent = parents[node]
        if parent >= 0:
            sibling[node], child[parent] = child[parent], node
    return child, sibling


def _visible(parents: list[int], depth: int) -> tuple[torch.Tensor, list[int]]:
    """(bool [n, n]: row sees column, depth of every node)."""
    num = len(parents)
    visible = torch.zeros(num, num, dtype=torch.bool)
    visible[:, 0] = True
    depths = [0] * num
    for node in range(1, num):
        at = node
        while at > 0 and depths[node] < depth:
            visible[node, at] = True
            depths[node] += 1
            at = parents[at]
    return visible, depths


def build_tree_kernel_efficient_cpu(
    parent_list, selected_index, verified_seq_len, tree_mask, positions, retrieve_index, retrieve_next_token,
    retrieve_next_sibling, topk, depth, draft_token_num, tree_mask_mode,
):  # fmt: skip
    """Fill mask, positions and links of every request's tree."""
    bs, num, mode = verified_seq_len.shape[0], draft_token_num, int(tree_mask_mode)
    selected = selected_index.reshape(bs, -1).tolist()
    parents = parent_list.reshape(bs, -1).tolist() if parent_list.numel() else [[]] * bs
    mask, before = tree_mask.view(-1), 0
    for row, length in enumerate(verified_seq_len.tolist()):
        tree = _parents(selected[row], parents[row], num, topk)
        child, sibling = _links(tree)
        visible, depths = _visible(tree, depth)
        dtype = retrieve_index.dtype
        retrieve_index.view(bs, num)[row] = torch.arange(row * num, (row + 1) * num, dtype=dtype)
        retrieve_next_token.view(bs, num)[row] = torch.tensor(child, dtype=dtype)
        retrieve_next_sibling.view(bs, num)[row] = torch.tensor(sibling, dtype=dtype)
        positions.view(bs, num)[row] = torch.tensor([length + d for d in depths], dtype=positions.dtype)
        if mode == FULL_MASK:
            start = num * num * row + before * num
            mask[start : start + (length + num) * num].view(num, length + num)[:, length:] = visible
        elif mode == QLEN_ONLY:
            mask[row * num * num : (row + 1) * num * num] = visible.view(-1).to(mask.dtype)
        else:
            raise NotImplementedError(f"tree mask mode {mode}")
        before += length


def verify_tree_greedy_cpu(
    predicts, accept_index, accept_token_num, candidates, retrive_index, retrive_next_token, retrive_next_sibling,
    target_predict,
):  # fmt: skip
    """Walk each tree along the target's own choices; the parameter names are those of the compiled operator."""
    bs, num = candidates.shape
    tokens, wanted = candidates.tolist(), target_predict.reshape(-1).tolist()
    rows = retrive_index.view(bs, num).tolist()
    child, sibling = retrive_next_token.view(bs, num).tolist(), retrive_next_sibling.view(bs, num).tolist()
    for row in range(bs):
        node, correct = 0, 0
        last = rows[row][0]
        accept_index[row, 0] = last
        while correct + 1 < accept_index.shape[1]:
            following = child[row][node]
            while following != -1 and tokens[row][following] != wanted[last]:
                following = sibling[row][following]
            if following == -1:
                break
            predicts[last] = wanted[last]
            node, correct = following, correct + 1
            last = rows[row][node]
            accept_index[row, correct] = last
        accept_token_num[row] = correct
        predicts[last] = wanted[last]
