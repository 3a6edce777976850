"""Tree links from a mask; used by n-gram speculation."""

from __future__ import annotations


def reconstruct_indices_from_tree_mask(
    tree_mask, verified_seq_len, positions, retrive_index, retrive_next_token, retrive_next_sibling, batch_size,
    draft_token_num,
):  # fmt: skip
    """Fill positions and links of every request's tree; the parameter names are those of the compiled operator."""
    num = draft_token_num
    lengths = verified_seq_len.tolist()
    for row, visible in enumerate(tree_mask.view(batch_size, num, num).bool().tolist()):
        ancestors = [[j for j in range(i - 1, -1, -1) if visible[i][j]] for i in range(num)]
        parents = [found[0] if found else -1 for found in ancestors]
        for i in range(num):
            positions.view(-1)[row * num + i] = lengths[row] + len(ancestors[i])
            retrive_index.view(batch_size, num)[row, i] = row * num + i
            later = range(i + 1, num)
            child = next((j for j in later if parents[j] == i), -1)
            sibling = next((j for j in later if parents[i] >= 0 and parents[j] == parents[i]), -1)
            retrive_next_token.view(batch_size, num)[row, i] = child
            retrive_next_sibling.view(batch_size, num)[row, i] = sibling
