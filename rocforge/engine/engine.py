"""The loop: schedule, run, sample, commit; and the text that comes of it. Knows no kernels."""

import contextlib
import secrets
from collections.abc import Iterator

from rocforge.engine.request import Request, Sampling
from rocforge.engine.runner import Runner
from rocforge.engine.sampler import Sampler
from rocforge.engine.scheduler import Scheduler
from rocforge.engine.text import TextStream


class Engine:
    """Answers many requests at once. Not safe for several threads: the caller holds a lock.

    `tokenizer` gives `stream()`, a decoder, and `end_ids`, the tokens that end an answer.
    """

    def __init__(self, runner: Runner, scheduler: Scheduler, sampler: Sampler, tokenizer):
        self.runner, self.scheduler, self.sampler, self.tokenizer = runner, scheduler, sampler, tokenizer
        self._open: set[Request] = set()
        self._in_step = False
        self._to_cancel: list[Request] = []

    def add(self, prompt_tokens: list[int], sampling: Sampling) -> Request:
        """Queue a prompt. Raises CapacityError where it can never fit."""
        seed = secrets.randbits(32) if sampling.seed is None else sampling.seed
        text = TextStream(self.tokenizer.stream(), sampling.stop)
        request = Request(prompt_tokens, sampling, text, seed)
        self.scheduler.add(request)
        self._open.add(request)
        return request

    def step(self) -> bool:
        """One batch through the model; False where there was nothing to do.

        Whatever is raised on the way passes on, Ctrl-C too; every request that had begun is then
        cancelled and its pages are free, and those that wait are answered by the steps that follow.
        """
        with self._guarded():
            batch = self.scheduler.schedule()
            if batch is None:
                return False
            logits = self.runner.run(batch)
            ids = self.sampler.sample(logits, batch.requests)
            self.scheduler.commit(batch, ids)
            for request, token in zip(batch.requests, ids, strict=True):
                self._emit(request, token)
            return True

    def cancel(self, request: Request) -> None:
        """End a request where it stands; one that has ended stays as it is.

        Within a step (a dropped stream may be collected as garbage there) it waits for the step's end.
        """
        if self._in_step:
            self._to_cancel.append(request)
        elif not request.finished:
            self._end(request, request.text.finish(), "cancelled")

    def close(self) -> None:
        """Cancel all that is open."""
        for request in list(self._open):
            self.cancel(request)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Around a step: where it is broken off, the requests that had begun are cancelled."""
        self._in_step = True
        try:
            yield
        except BaseException:
            # Ctrl-C falls between any two lines: nothing that is half done can be trusted.
            self._to_cancel += self.scheduler.abandon(self._open)
            raise
        finally:
            self._in_step = False
            while self._to_cancel:
                self.cancel(self._to_cancel.pop())

    def _emit(self, request: Request, token: int) -> None:
        request.mark_token()
        sampling = request.sampling
        if token in self.tokenizer.end_ids and not sampling.ignore_eos:
            request.tokens.pop()
            self._end(request, request.text.finish(), "stop")
            return
        text, stopped = request.text.push(token)
        if stopped:
            self._end(request, text, "stop", token)
        elif request.n_generated == sampling.max_tokens or len(request.tokens) > self.scheduler.capacity:
            self._end(request, text + request.text.finish(), "length", token)
        else:
            request.emit(text, token, None)

    def _end(self, request: Request, text: str, reason: str, token: int | None = None) -> None:
        # In this order a request that Ctrl-C leaves half ended is still open, and is ended again.
        self.scheduler.finish(request)
        request.emit(text, token, reason)
        request.finish_reason = reason
        self._open.discard(request)
