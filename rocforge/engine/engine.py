"""The loop: schedule, run, sample, commit; and the text that comes of it. Knows no kernels."""

import secrets

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

    def add(self, prompt_tokens: list[int], sampling: Sampling) -> Request:
        """Queue a prompt. Raises CapacityError where it can never fit."""
        seed = secrets.randbits(32) if sampling.seed is None else sampling.seed
        text = TextStream(self.tokenizer.stream(), sampling.stop)
        request = Request(prompt_tokens, sampling, text, seed)
        self.scheduler.add(request)
        self._open.add(request)
        return request

    def step(self) -> bool:
        """One batch through the model; False where there was nothing to do."""
        batch = self.scheduler.schedule()
        if batch is None:
            return False
        try:
            logits = self.runner.run(batch)
            ids = self.sampler.sample(logits, batch.requests)
        except BaseException:
            # Ctrl-C too: what the step would have changed is unknown, so its requests end here.
            for request, _ in batch.advanced:
                self.cancel(request)
            raise
        self.scheduler.commit(batch, ids)
        for request, token in zip(batch.requests, ids, strict=True):
            self._emit(request, token)
        return True

    def cancel(self, request: Request) -> None:
        """End a request where it stands; one that has ended stays as it is."""
        if not request.finished:
            self._end(request, request.text.finish(), "cancelled")

    def close(self) -> None:
        """Cancel all that is open."""
        for request in list(self._open):
            self.cancel(request)

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
        elif request.n_generated == sampling.max_tokens or len(request.tokens) > self.scheduler.context:
            self._end(request, text + request.text.finish(), "length", token)
        else:
            request.emit(text, token, None)

    def _end(self, request: Request, text: str, reason: str, token: int | None = None) -> None:
        self.scheduler.finish(request)
        self._open.discard(request)
        request.finish_reason = reason
        request.emit(text, token, reason)
