"""The public API: a model file becomes an LLM that answers. Holds the parts together; computes nothing."""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rocforge.engine.engine import Engine
from rocforge.engine.request import Completion, Request, Sampling
from rocforge.engine.runner import Runner
from rocforge.engine.sampler import Sampler
from rocforge.engine.scheduler import Batch, Scheduler
from rocforge.engine.selftest import verdict
from rocforge.engine.tuned_settings import best_settings
from rocforge.errors import CapacityError, RequestError
from rocforge.gguf.formats import Q8_BLOCK
from rocforge.gguf.chat import TEMPLATE_KEY, find_template, render_chat
from rocforge.gguf.reader import GGUFFile, open_gguf
from rocforge.gguf.tokenizer import Tokenizer
from rocforge.models import build_plan
from rocforge.models.config import ModelConfig
from rocforge.plan.allocate import Memory, allocate
from rocforge.plan.fuse import fuse
from rocforge.plan.ir import KV_FORMATS, PAGE, Plan
from rocforge.plan.place import place
from rocforge.probe import Device, choose
from rocforge.probe.cpu import gives_huge_pages, resident_bytes

log = logging.getLogger(__name__)

BUILTIN = Path(__file__).parent / "assets" / "builtin.gguf"

# What of a GPU's free memory is left to the driver, the kernels' code and their graphs.
GPU_RESERVE_BYTES = 256 << 20
# Tokens of KV cache where neither the caller nor the model asks for less.
DEFAULT_CONTEXT = 4096
# Most memory for one step's logits: what bounds the rows of LLM.logits and of a batch.
LOGITS_BYTES = 32 << 20


@dataclass(frozen=True)
class Design:
    """What is decided of a model before any of it is computed. The file is open."""

    file: GGUFFile
    device: Device
    config: ModelConfig
    plan: Plan
    memory: Memory
    context: int


def draw(
    path: "str | os.PathLike | None",
    device: str = "auto",
    context: int | None = None,
    threads: int | None = None,
    sequences: int = 8,
    chunk_tokens: int = 512,
    kv_format: str = "f16",
    huge_pages: bool | None = None,
) -> Design:
    """File to plan to memory, with the arguments and the errors of LLM; reads no weights and takes no memory."""
    for name, value in {"context": context, "sequences": sequences, "chunk_tokens": chunk_tokens}.items():
        if value is not None and value < 1:
            raise RequestError(f"{name} is {value}; it must be at least 1")
    if kv_format not in KV_FORMATS:
        raise RequestError(f"kv_format is {kv_format!r}; it must be one of {', '.join(KV_FORMATS)}")
    chosen = choose(device, threads, verdict, huge_pages)
    file = open_gguf(path if path is not None else BUILTIN)
    try:
        config, plan = build_plan(file, kv_format)
        if kv_format == "q8_0" and config.head_dim % Q8_BLOCK:
            raise RequestError(f"kv_format q8_0 needs heads of a multiple of {Q8_BLOCK} values, {file.path} has {config.head_dim}")
        plan = fuse(plan)
        if context is not None and context > config.context:
            log.warning("a context of %d is more than the %d that %s was trained for", context, config.context, file.path)
        context = context or min(DEFAULT_CONTEXT, config.context)
        chunk = max(min(chunk_tokens, context), sequences)
        sizes = {
            "tokens": chunk,
            "rows": max(sequences, min(chunk, LOGITS_BYTES // (4 * config.vocab_size))),
            "sequences": sequences + 1,
            "context": context,
        }
        settle = lambda chosen: _settle(chosen, config.name, threads, huge_pages, lambda device: _fit(plan, device, file, sizes))
        try:
            chosen, memory = settle(chosen)
        except CapacityError as error:
            if chosen.kind == "cpu" or device != "auto":
                raise
            host = choose("cpu", threads, None, huge_pages)
            chosen, memory = settle(replace(host, reason=f"the model does not fit on {chosen.name}: {error}"))
    except BaseException:
        file.close()
        raise
    return Design(file, chosen, config, place(plan, chosen), memory, context)


def _settle(
    device: Device, model: str, threads: int | None, huge_pages: bool | None, fit: Callable[[Device], Memory]
) -> tuple[Device, Memory]:
    """The device with the settings that are given, a CPU's else as `rocforge tune` found them best for the model,
    and what `fit` gives of it: the memory plan."""
    best = best_settings(model) if device.kind == "cpu" else None
    said = [device.reason]
    if best and threads is None and best.threads != device.threads:
        device = replace(device, threads=best.threads)
        said.append(f"{best.threads} thread{'s' * (best.threads > 1)} by `rocforge tune`")
    if best and huge_pages is None and best.huge_pages:
        obstacle = _obstacle_to_huge_pages(device, fit)
        device = replace(device, huge_pages=obstacle is None)
        said.append(f"no huge pages, which `rocforge tune` found best: {obstacle}" if obstacle else "huge pages by `rocforge tune`")
    return replace(device, reason="; ".join(said)), fit(device)


def _obstacle_to_huge_pages(device: Device, fit: Callable[[Device], Memory]) -> str | None:
    """Why the weights cannot be copied into such; None where they can."""
    if not gives_huge_pages():
        return "the system gives none"
    try:
        fit(replace(device, huge_pages=True))
    except CapacityError:
        return "memory does not suffice for a copy of the weights"
    return None


def _fit(plan: Plan, device: Device, file: GGUFFile, sizes: dict[str, int]) -> Memory:
    """The memory plan on a device. Raises CapacityError where it does not suffice."""
    if device.kind == "cpu":
        from rocforge.cpu.layout import scratch_bytes

        needs = {"weights_bytes": file.n_bytes, "scratch_bytes": scratch_bytes(plan.weights, sizes["tokens"])}
        try:
            return allocate(plan, **sizes, **needs, available_bytes=device.memory_bytes, weights_are_mapped=not device.huge_pages)
        except CapacityError as error:
            if not device.huge_pages:
                raise
            raise CapacityError(f"{error}; or leave the weights where the file is mapped (--no-huge-pages)") from None
    from rocforge.kernels.backend import scratch_bytes, weights_bytes

    return allocate(
        plan,
        **sizes,
        weights_bytes=weights_bytes(plan.weights),
        scratch_bytes=scratch_bytes(plan.weights, sizes["tokens"]),
        available_bytes=device.memory_bytes - GPU_RESERVE_BYTES,
        weights_are_mapped=False,
    )


def open_backend(device: Device) -> tuple[Any, dict[str, Callable]]:
    """The room that runs on the device: its backend and its launchers."""
    if device.kind == "cpu":
        from rocforge.cpu import backend

        return backend.Backend(device.threads, device.huge_pages), backend.LAUNCHERS
    from rocforge.kernels import backend

    return backend.Backend(f"cuda:{device.index}"), backend.LAUNCHERS


@dataclass
class Chunk:
    """A piece of a streamed answer; `finish_reason` is None until the last."""

    text: str
    tokens: list[int]
    finish_reason: str | None = None


class Stream(Iterator[Chunk]):
    """The pieces of one answer. `close()`, or letting go of it, cancels what has not ended."""

    def __init__(self, llm: "LLM", request: Request):
        self._llm, self._request = llm, request

    def __next__(self) -> Chunk:
        while (piece := self._request.take()) is None:
            if self._request.finished:
                raise StopIteration
            self._llm._step()
        return Chunk(*piece)

    def close(self) -> None:
        self._llm._cancel(self._request)

    __del__ = close


class LLM:
    """A model, ready to answer. A context manager; `close()` frees memory and threads.

    `path` is a GGUF file (any part of a split one), or None for the built-in model. `device` is
    auto, cpu or gpu. `context` is the tokens of KV cache, shared by the sequences that run at once
    (at most `sequences`); None takes the model's own, up to 4096. A prompt is computed in chunks of
    `chunk_tokens`. `kv_format` is f16, f32 or q8_0. `huge_pages` has a CPU read the weights from a copy in huge pages,
    not where the file is mapped. `threads` and `huge_pages` None take what `rocforge tune` found best for
    the model, else a thread a core and the mapping. `progress(stage, done, total)` is called while the file
    is loaded (bytes) and kernels are compiled (kernels).

    Raises ModelError for a file that cannot be run, DeviceError for a device or huge pages that are not there,
    CapacityError where memory does not suffice, RequestError for a parameter out of its range.
    """

    def __init__(
        self,
        path: "str | os.PathLike | None" = None,
        *,
        device: str = "auto",
        context: int | None = None,
        threads: int | None = None,
        sequences: int = 8,
        chunk_tokens: int = 512,
        kv_format: str = "f16",
        huge_pages: bool | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ):
        self._lock = threading.RLock()
        self._closed = False
        design = draw(path, device, context, threads, sequences, chunk_tokens, kv_format, huge_pages)
        self._file, self.path, self.device = design.file, design.file.path, design.device
        self.config, self.plan, self.context = design.config, design.plan, design.context
        try:
            if self.device.kind == "gpu":
                from rocforge.kernels import launch

                launch.hashing()  # while the vocabulary is read, and the plan recorded
            self.tokenizer = Tokenizer.from_metadata(self._file.metadata, self.path)
            self._build(design.memory, sequences, progress)
        except BaseException:
            self._file.close()
            raise

    def _build(self, memory: Memory, sequences: int, progress) -> None:
        backend, launchers = open_backend(self.device)
        self._to_host, self.memory = backend.to_host, memory
        self._runner = Runner(self.plan, memory, self._file, backend, launchers)
        try:
            self._runner.prepare(progress)
            if self.device.kind == "cpu":
                # What the process holds before the model's own memory is taken, kernels included.
                self.memory = replace(memory, runtime_bytes=resident_bytes())
            self._runner.load(progress)
        except BaseException:
            self._runner.close()
            raise
        self._scheduler = Scheduler(
            n_pages=memory.sizes["B"],
            page_size=PAGE,
            max_tokens=memory.sizes["T"],
            max_sequences=sequences,
            context=self.context,
        )
        # One sequence more than the scheduler has: `logits` computes in it.
        self._spare_sequence = sequences
        self._engine = Engine(self._runner, self._scheduler, Sampler(backend), self.tokenizer)

    # ---- text and tokens

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of the text; `add_special` adds BOS and EOS as the model wants them, `parse_special`
        reads control tokens written in the text as such."""
        return self.tokenizer.encode(text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of the ids; control tokens included."""
        return self.tokenizer.decode(list(ids))

    # ---- numbers

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """float32 [T, V]: for each token, the logits of the one after it.

        Raises RequestError for no tokens or an id outside of the vocabulary, CapacityError where
        the KV cache has no room for them beside what is running.
        """
        ids = np.asarray(self._checked(tokens), np.int32)
        if len(ids) > self.context:
            raise CapacityError(f"{len(ids)} tokens do not fit into the context of {self.context}; raise it")
        with self._lock, self._scheduler.borrow_pages(-(-len(ids) // PAGE)) as pages:
            sizes = self._runner.memory.sizes
            table = np.zeros((sizes["S"], sizes["P"]), np.int32)
            table[self._spare_sequence, : len(pages)] = pages
            out = np.empty((len(ids), self.config.vocab_size), np.float32)
            step = min(sizes["T"], sizes["R"])
            for start in range(0, len(ids), step):
                part = ids[start : start + step]
                positions = np.arange(start, start + len(part), dtype=np.int32)
                where = np.full(len(part), self._spare_sequence, np.int32)
                batch = Batch(part, positions, where, table, np.arange(len(part), dtype=np.int32), start + len(part))
                out[start : start + len(part)] = self._to_host(self._runner.run(batch))
        return out

    # ---- generation

    def generate(self, prompt, sampling: Sampling | None = None) -> "Completion | list[Completion]":
        """Answer a prompt (text or token ids), or each of a list of prompts, all of them at once.

        Raises RequestError and CapacityError as `stream` does, before anything is computed.
        """
        many = isinstance(prompt, (list, tuple)) and not all(isinstance(p, (int, np.integer)) for p in prompt)
        prompts = list(prompt) if many else [prompt]
        requests = []
        try:
            for p in prompts:
                requests.append(self._add(p, sampling))
            while any(not r.finished for r in requests):
                self._step()
        finally:
            for r in requests:
                self._cancel(r)
        completions = [r.completion() for r in requests]
        return completions if many else completions[0]

    def stream(self, prompt, sampling: Sampling | None = None) -> Stream:
        """The answer piece by piece. Closing the iterator cancels the request and frees its pages.

        Raises RequestError for an empty prompt or a token outside of the vocabulary, CapacityError
        for a prompt that does not fit into the context.
        """
        return Stream(self, self._add(prompt, sampling))

    def chat(self, messages: list[dict], sampling: Sampling | None = None, stream: bool = False):
        """Answer a conversation, [{"role": "user", "content": ...}, ...], with the model's own template.

        Raises ModelError where the model has none, RequestError where it refuses the messages.
        """
        prompt = self.tokenize(self.render_chat(messages), add_special=False, parse_special=True)
        return self.stream(prompt, sampling) if stream else self.generate(prompt, sampling)

    @property
    def runner(self) -> Runner:
        """What runs the model's steps, for whoever measures them. It must not be used while the LLM answers."""
        return self._runner

    @property
    def has_chat_template(self) -> bool:
        return bool(self._file.metadata.get(TEMPLATE_KEY))

    def render_chat(self, messages: list[dict]) -> str:
        """The conversation as the text that the model was trained on, with the BOS that it wants in front."""
        t = self.tokenizer
        bos, eos = (self.detokenize([i]) if i is not None else "" for i in (t.bos_id, t.eos_id))
        template = find_template(self._file.metadata, self.path)
        text = render_chat(template, messages, bos_token=bos, eos_token=eos, source=f"{self.path}: the chat template")
        return bos + text if t.add_bos and not text.startswith(bos) else text

    # ---- the end

    def close(self) -> None:
        """Free memory, threads and the file. What is running is cancelled."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._engine.close()
                self._runner.close()
                self._file.close()

    def __enter__(self) -> "LLM":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    # ---- steps

    def _checked(self, tokens: Sequence[int]) -> list[int]:
        if self._closed:
            raise RequestError("this LLM is closed")
        ids = [int(t) for t in tokens]
        if not ids:
            raise RequestError("the prompt is empty: it has no tokens")
        bad = next((t for t in ids if not 0 <= t < self.config.vocab_size), None)
        if bad is not None:
            raise RequestError(f"token {bad} is outside of the vocabulary of {self.config.vocab_size}")
        return ids

    def _add(self, prompt, sampling: Sampling | None) -> Request:
        tokens = self._checked(self.tokenize(prompt) if isinstance(prompt, str) else prompt)
        with self._lock:
            return self._engine.add(tokens, sampling or Sampling())

    def _step(self) -> None:
        with self._lock:
            if self._closed:
                raise RequestError("this LLM was closed while it answered")
            self._engine.step()

    def _cancel(self, request: Request) -> None:
        with self._lock:
            if not self._closed:
                self._engine.cancel(request)
