"""No page is owned twice, and none is lost, whatever comes."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rocforge.engine.pages import PagePool
from rocforge.engine.request import Sampling
from tests.engine.toy import END, toy_engine

GREEDY = Sampling(temperature=0, max_tokens=12)


def test_a_page_given_back_twice_is_our_fault():
    pool = PagePool(4)
    pages = pool.take(2)
    pool.give(pages)
    with pytest.raises(AssertionError, match="free already"):
        pool.give(pages[:1])


class Life(RuleBasedStateMachine):
    """Adds, cancels, steps and borrows in any order, over few pages so that preemption is common."""

    def __init__(self):
        super().__init__()
        self.engine = toy_engine(n_pages=9, page_size=4, max_tokens=6, max_sequences=3, context=36)
        self.requests = []

    @rule(prompt=st.lists(st.integers(0, END - 1), min_size=1, max_size=30))
    def add(self, prompt):
        self.requests.append(self.engine.add(prompt, GREEDY))

    @rule(n=st.integers(1, 5))
    def step(self, n):
        for _ in range(n):
            self.engine.step()

    @rule(i=st.integers(0, 50))
    def cancel(self, i):
        if self.requests:
            self.engine.cancel(self.requests[i % len(self.requests)])

    @rule()
    def a_step_fails(self):
        if self.engine.scheduler.has_work:
            self.engine.runner.fail_at = self.engine.runner.steps + 1
            with pytest.raises(RuntimeError):
                self.engine.step()

    @rule()
    def finish(self):
        for _ in range(2000):
            if not self.engine.step():
                break
        assert all(r.finished for r in self.requests)

    @invariant()
    def every_page_has_one_owner(self):
        pool = self.engine.scheduler.pool
        owned = [page for r in self.requests for page in r.pages]
        assert len(owned) == len(set(owned))
        assert len(owned) + pool.n_free == pool.n_pages
        assert set(owned).isdisjoint(pool._free)

    @invariant()
    def the_finished_own_nothing(self):
        assert all(not r.pages and r.slot is None for r in self.requests if r.finished)

    @invariant()
    def slots_are_not_shared(self):
        slots = [r.slot for r in self.requests if r.slot is not None]
        assert len(slots) == len(set(slots)) <= 3

    @invariant()
    def pages_cover_what_is_computed(self):
        for r in self.requests:
            assert len(r.pages) * 4 >= r.computed


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
