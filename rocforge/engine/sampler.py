"""From logits to ids for a batch of requests, each with its own parameters and its own random numbers."""

from collections import Counter
from typing import Any

import numpy as np

from rocforge.engine.request import Request


class Sampler:
    """One random number for each token of a request, from a generator of its seed: what company a
    request has, and in which steps it runs, changes nothing. `backend` computes, where the logits are."""

    def __init__(self, backend):
        self._backend = backend

    def sample(self, logits: Any, requests: list[Request]) -> list[int]:
        """One id for each row of logits float32 [R, V], which may be changed."""
        if not requests:
            return []
        parameters = [r.sampling for r in requests]
        column = lambda name: np.array([getattr(p, name) for p in parameters])
        if any(p.penalises for p in parameters):
            self._penalize(logits, requests, column)
        uniform = np.array([_uniform(r) for r in requests])
        names = ("temperature", "top_k", "top_p", "min_p")
        return self._backend.sample(logits, *(column(n) for n in names), uniform)

    def _penalize(self, logits: Any, requests: list[Request], column) -> None:
        ids, counts, starts = [], [], [0]
        for r in requests:
            seen = Counter(r.tokens[-r.sampling.penalty_window :]) if r.sampling.penalises else {}
            ids += seen.keys()
            counts += seen.values()
            starts.append(len(ids))
        names = ("repetition_penalty", "frequency_penalty", "presence_penalty")
        self._backend.penalize(logits, np.array(ids, np.int64), np.array(counts, np.int64), starts, *(column(n) for n in names))


def _uniform(request: Request) -> float:
    """The random number of the request's next token: Philox is a function of seed and place."""
    if request.sampling.temperature == 0:
        return 0.0
    return np.random.Generator(np.random.Philox(key=request.seed, counter=request.n_generated)).random()
