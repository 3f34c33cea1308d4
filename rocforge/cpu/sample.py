"""From logits to token ids: penalties, truncation, the draw. Knows no requests and draws no random numbers.

A row is host work of microseconds for the few candidates that truncation leaves, so this is numpy
over whole rows, with only as much of a row sorted as the draw needs.
"""

import numpy as np

# Candidates that are sorted at first; eight times more whenever they do not suffice.
_FIRST = 256


def penalize(
    logits: np.ndarray,
    ids: np.ndarray,
    counts: np.ndarray,
    starts: np.ndarray,
    repetition: np.ndarray,
    frequency: np.ndarray,
    presence: np.ndarray,
) -> None:
    """Lower, in place, the logits of tokens that have been seen.

    logits float32 [R, V]; row r has seen the distinct ids[starts[r] : starts[r + 1]], each `counts`
    times. A logit is divided by `repetition` [R] if it is positive, else multiplied (Keskar et al.,
    arXiv 1909.05858); then counts * `frequency` + `presence` is taken off.
    """
    for r in range(len(logits)):
        seen = slice(starts[r], starts[r + 1])
        if seen.start == seen.stop:
            continue
        row, where = logits[r], ids[seen]
        values = row[where]
        values = np.where(values > 0, values / repetition[r], values * repetition[r])
        row[where] = values - counts[seen] * frequency[r] - presence[r]


def sample(
    logits: np.ndarray,
    temperature: np.ndarray,
    top_k: np.ndarray,
    top_p: np.ndarray,
    min_p: np.ndarray,
    uniform: np.ndarray,
    out: np.ndarray,
) -> None:
    """One id for each row of logits float32 [R, V] into out int32 [R]; the others are [R] each.

    Truncation in llama.cpp's default order: `top_k` largest (0: all); of their softmax the smallest
    prefix of mass `top_p` (1: all); of these the ones of at least `min_p` times the largest's
    chance; then the softmax at `temperature`, and from it, candidates in descending order (ties by
    lower id), the one at which the cumulated chance exceeds `uniform`, in [0, 1). Temperature 0 is
    the first largest logit. NaN counts as minus infinity.
    """
    for r in range(len(logits)):
        if temperature[r] == 0:
            row = logits[r]
            best = int(np.argmax(row))
            out[r] = best if not np.isnan(row[best]) else np.nanargmax(row) if not np.isnan(row).all() else 0
        else:
            out[r] = _draw(logits[r], temperature[r], int(top_k[r]), top_p[r], min_p[r], uniform[r])


def _draw(row: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float, uniform: float) -> int:
    row = np.where(np.isnan(row), -np.inf, row.astype(np.float64))
    if 0 < top_k < len(row):
        ids = _largest(row, top_k)
    elif top_p < 1 or min_p > 0:
        ids = _prefix(row, top_p, min_p)
    else:
        ids = _largest(row, len(row))
    chance = np.exp(row[ids] - row[ids[0]])
    if top_p < 1:
        # Without top-k the mass is that of the whole row, of which ids may be a part.
        total = chance.sum() if 0 < top_k < len(row) else np.exp(row - row[ids[0]]).sum()
        chance = chance[: int(np.searchsorted(np.cumsum(chance), top_p * total)) + 1]
    chance = chance[chance >= min_p]
    cumulated = np.cumsum(np.exp((row[ids[: len(chance)]] - row[ids[0]]) / temperature))
    return int(ids[min(int(np.searchsorted(cumulated, uniform * cumulated[-1], side="right")), len(chance) - 1)])


def _largest(row: np.ndarray, n: int) -> np.ndarray:
    """The ids of the n largest, in descending order, ties by lower id."""
    if n >= len(row):
        return np.argsort(-row, kind="stable")
    least = np.partition(row, len(row) - n)[len(row) - n]
    above = np.flatnonzero(row > least)
    ids = np.concatenate([above, np.flatnonzero(row == least)[: n - len(above)]])
    return ids[np.argsort(-row[ids], kind="stable")]


def _prefix(row: np.ndarray, top_p: float, min_p: float) -> np.ndarray:
    """The largest ids in order, enough of them that top-p or min-p ends within."""
    chance, n = np.exp(row - row.max()), _FIRST
    total = chance.sum()
    while n < len(row):
        ids = _largest(row, n)
        if chance[ids].sum() >= top_p * total or chance[ids[-1]] < min_p:
            return ids
        n *= 8
    return _largest(row, len(row))
