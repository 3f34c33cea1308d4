"""From logits to token ids: penalties, truncation, the draw. Knows no requests and draws no random numbers.

The few candidates that truncation leaves are microseconds of work, so this is numpy over whole rows,
with only as much of a row sorted as the draw needs.
"""

from collections.abc import Iterator

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
    the first largest logit, and so is a row whose largest is infinite. NaN counts as minus infinity.
    """
    for r in range(len(logits)):
        row, best = logits[r], logits[r].max()
        if np.isnan(best):
            row = np.where(np.isnan(row), -np.inf, row)
            best = row.max()
        if temperature[r] == 0 or not np.isfinite(best):
            out[r] = np.argmax(row)
        else:
            out[r] = _draw(row, best, float(temperature[r]), int(top_k[r]), float(top_p[r]), float(min_p[r]), float(uniform[r]))


def _draw(
    row: np.ndarray, best: np.float32, temperature: float, top_k: int, top_p: float, min_p: float, uniform: float
) -> int:
    """An id for one row, whose largest logit is `best`."""
    if 0 < top_k < len(row):
        prefixes = [_largest(row, top_k)]
        relative = np.subtract(row[prefixes[0]], best, dtype=np.float64)
    else:
        prefixes = _prefixes(row)
        relative = np.subtract(row, best, dtype=np.float64)
    limit, chances = len(relative), np.exp(relative)
    least_mass = top_p * chances.sum()
    for ids in prefixes:
        logits = np.subtract(row[ids], best, dtype=np.float64)
        chance = np.exp(logits)
        n, is_known = len(ids), len(ids) == limit
        if top_p < 1:
            # Sums in two orders may differ in their last bits: where the mass is never reached, all are kept.
            kept = int(np.searchsorted(np.cumsum(chance), least_mass)) + 1
            n, is_known = min(n, kept), is_known or kept <= n
        kept = int(np.searchsorted(-chance, -min_p, side="right"))
        n, is_known = min(n, kept), is_known or kept < n
        cumulated = np.cumsum(np.exp(logits[:n] / temperature))
        if is_known:
            return int(ids[min(int(np.searchsorted(cumulated, uniform * cumulated[-1], side="right")), n - 1)])
        if top_p == 1:
            # More survive than these, but the draw may well fall among these.
            total = np.exp(relative[chances >= min_p] / temperature).sum()
            drawn = int(np.searchsorted(cumulated, uniform * total, side="right"))
            if drawn < n:
                return int(ids[drawn])
    raise AssertionError("the last prefix is the whole row")


def _prefixes(row: np.ndarray) -> Iterator[np.ndarray]:
    """The ids of the largest logits in descending order: few, more, at last all."""
    n = _FIRST
    while n < len(row):
        yield _largest(row, n)
        n *= 8
    yield _largest(row, len(row))


def _largest(row: np.ndarray, n: int) -> np.ndarray:
    """The ids of the n largest, in descending order, ties by lower id."""
    ids, folds = np.arange(len(row)), len(row) // (2 * n)
    if folds > 1:
        # Of each of 2n parts or more the largest: n logits at least are not below the n-th largest of these.
        largest = row[: len(row) // folds * folds].reshape(folds, -1).max(axis=0)
        ids = np.flatnonzero(row >= np.partition(largest, -n)[-n])
    return ids[np.argsort(-row[ids], kind="stable")[:n]]
