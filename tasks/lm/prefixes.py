"""What rows of tokens begin with alike, and an order that visits their prefix tree depth first."""

from collections.abc import Sequence

Tokens = Sequence[int]


def shared_length(one: Tokens, other: Tokens) -> int:
    """How many tokens two rows begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (left, right) in pairs if left != right), min(len(one), len(other)))


def depth_first(rows: Sequence[tuple[int, ...]]) -> list[int]:
    """The rows' indices, branch by branch of their prefix tree, the longest branch of a fork first.

    What a row shares with any before it, it shares with the one right before it; so a row's own
    tokens are all that is not yet known once the row before it was computed.
    """
    order: list[int] = []
    forks = [sorted(range(len(rows)), key=lambda row: rows[row])] if rows else []
    while forks:
        group = forks.pop()
        # In sorted order, the first and the last differ no later than any two between them.
        shared = shared_length(rows[group[0]], rows[group[-1]])
        order += [row for row in group if len(rows[row]) == shared]
        branches: dict[int, list[int]] = {}
        for row in group:
            if len(rows[row]) > shared:
                branches.setdefault(rows[row][shared], []).append(row)
        longest_last = sorted(
            branches.values(), key=lambda branch: max(len(rows[row]) for row in branch)
        )
        forks += longest_last
    return order
