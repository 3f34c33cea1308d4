"""Which tokens of which requests go into the next step. Knows pages and slots, no tensors and no text.

Every step has room for `max_tokens` tokens. Requests that decode come first, a token each; what is
left goes to prompts, in chunks, oldest first. Where pages run out the youngest request gives its
own back and starts again later from its tokens; the oldest is never robbed, so it always ends.
"""

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from rocforge.engine.pages import PagePool
from rocforge.engine.request import Request
from rocforge.errors import CapacityError


@dataclass
class Batch:
    """One step's work: T tokens of one or more sequences, each sequence's own in ascending order.

    `tokens`, `positions`, `sequences` int32 [T] (a sequence is a row of `page_table`, int32
    [sequences, pages of a sequence]); `rows` int32 [R] are the tokens whose logits are wanted, for
    `requests`, one each. The longest of the sequences has `length` tokens behind the step. `advanced`
    says how many tokens of which request the step computes. The arrays are the scheduler's own and
    hold until its next step.
    """

    tokens: np.ndarray
    positions: np.ndarray
    sequences: np.ndarray
    page_table: np.ndarray
    rows: np.ndarray
    length: int
    requests: list[Request] = field(default_factory=list)
    advanced: list[tuple[Request, int]] = field(default_factory=list)


class Scheduler:
    """Requests in, batches out. `context` bounds a sequence, `n_pages` of `page_size` tokens all together.

    `capacity` is the tokens that one sequence can hold; the engine ends it there.
    """

    def __init__(self, n_pages: int, page_size: int, max_tokens: int, max_sequences: int, context: int):
        assert max_tokens >= max_sequences, (max_tokens, max_sequences)
        self.page_size, self.max_tokens, self.context = page_size, max_tokens, context
        # Beyond all pages a sequence could neither go on nor make room for itself.
        self.capacity = min(context, n_pages * page_size)
        self.pool = PagePool(n_pages)
        self._table = np.zeros((max_sequences, -(-context // page_size)), np.int32)
        self._slots = self._all_slots()
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []  # by age
        self._tokens, self._positions, self._sequences = (np.zeros(max_tokens, np.int32) for _ in range(3))
        self._rows = np.zeros(max_sequences, np.int32)

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._running)

    def add(self, request: Request) -> None:
        """Queue a request. Raises CapacityError for a prompt that can never fit."""
        n = len(request.prompt_tokens)
        assert n, "a prompt without tokens"
        if n > self.context:
            raise CapacityError(
                f"the prompt has {n} tokens, the context holds {self.context}; "
                "shorten the prompt or raise the context (--context)"
            )
        pages = self._pages_for(n)
        if pages > self.pool.n_pages:
            raise CapacityError(
                f"the prompt of {n} tokens needs {pages} KV pages, there are {self.pool.n_pages}; raise --context"
            )
        self._waiting.append(request)

    def cancel(self, request: Request) -> None:
        """Forget a request, wherever it stands; its pages are free at once."""
        if request in self._running:
            self._leave(request)
        elif request in self._waiting:
            self._waiting.remove(request)

    finish = cancel

    def abandon(self, requests: Iterable[Request]) -> list[Request]:
        """Of `requests`, all there are, forget and return those that had begun; the others wait on.

        For a step that was broken off anywhere, in here too: no page, slot or list is trusted.
        """
        begun = [r for r in requests if r in self._running or r not in self._waiting]
        for request in begun:
            request.pages, request.slot, request.computed = [], None, 0
        self._waiting = deque(r for r in self._waiting if r not in begun)
        self._running = []
        self.pool, self._slots = PagePool(self.pool.n_pages), self._all_slots()
        self._table[:] = 0
        return begun

    def schedule(self) -> Batch | None:
        """The next step's batch; None where there is nothing to do."""
        planned: list[tuple[Request, int]] = []
        budget = self.max_tokens
        # By age. A prompt in the midst of its chunks took all that its elders left, so none younger has
        # begun: whoever decodes comes before it. And who is thrown out is younger than all planned so far.
        for request in list(self._running):
            n = min(len(request.tokens) - request.computed, budget)
            if request.slot is not None and self._grow(request, n):
                planned.append((request, n))
                budget -= n
        while self._waiting and self._slots and budget:
            request = self._waiting[0]
            # One whose whole text has no room now would only be thrown out again.
            if self._pages_for(len(request.tokens)) > self.pool.n_free:
                break
            self._waiting.popleft()
            request.slot = self._slots.pop()
            self._running.append(request)
            n = min(len(request.tokens), budget)
            self._grow(request, n)
            planned.append((request, n))
            budget -= n
        assert planned or not self.has_work, "the oldest request can always go on"
        return self._batch(planned) if planned else None

    def commit(self, batch: Batch, ids: list[int]) -> None:
        """The batch has been computed and `ids` drawn for its rows."""
        for request, n in batch.advanced:
            request.computed += n
        for request, token in zip(batch.requests, ids, strict=True):
            request.tokens.append(token)

    @contextlib.contextmanager
    def borrow_pages(self, n: int) -> Iterator[list[int]]:
        """n pages for the length of a `with`. Raises CapacityError where they are not free."""
        if n > self.pool.n_free:
            raise CapacityError(f"needs {n} KV pages, {self.pool.n_free} are free of {self.pool.n_pages}; raise --context")
        pages = self.pool.take(n)
        try:
            yield pages
        finally:
            self.pool.give(pages)

    # ---- pages and slots

    def _all_slots(self) -> list[int]:
        return list(range(len(self._table) - 1, -1, -1))

    def _pages_for(self, n_tokens: int) -> int:
        return -(-n_tokens // self.page_size)

    def _grow(self, request: Request, n: int) -> bool:
        """Pages for n more tokens, taken from younger requests if need be; False if its own turn is lost."""
        missing = self._pages_for(request.computed + n) - len(request.pages)
        while missing > self.pool.n_free:
            youngest = self._running[-1]
            self._leave(youngest)
            self._waiting.appendleft(youngest)
            if youngest is request:
                return False
        if missing > 0:
            first = len(request.pages)
            request.pages += self.pool.take(missing)
            self._table[request.slot, first : len(request.pages)] = request.pages[first:]
        return True

    def _leave(self, request: Request) -> None:
        self._running.remove(request)
        self.pool.give(request.pages)
        self._table[request.slot, : len(request.pages)] = 0
        self._slots.append(request.slot)
        request.pages, request.slot, request.computed = [], None, 0

    def _batch(self, planned: list[tuple[Request, int]]) -> Batch:
        at, length, requests = 0, 0, []
        for request, n in planned:
            part, start = slice(at, at + n), request.computed
            self._tokens[part] = request.tokens[start : start + n]
            self._positions[part] = range(start, start + n)
            self._sequences[part] = request.slot
            at, length = at + n, max(length, start + n)
            if start + n == len(request.tokens):
                self._rows[len(requests)] = at - 1
                requests.append(request)
            request.mark_scheduled()
        return Batch(
            self._tokens[:at], self._positions[:at], self._sequences[:at], self._table, self._rows[: len(requests)],
            length, requests, planned,
        )  # fmt: skip
