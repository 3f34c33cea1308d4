"""`rocforge generate`: a text goes on, or a question is answered. The text on stdout, all else on stderr."""

import contextlib
import functools
import json
import logging
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import click

from rocforge.commands import verbose
from rocforge.commands.progress import Progress
from rocforge.engine.request import Sampling
from rocforge.errors import RequestError
from rocforge.plan.ir import KV_FORMATS
from rocforge.probe import CHOICES, choose
from rocforge.probe.cpu import peak_resident_bytes

CANCELLED = 130  # as a shell counts a program that Ctrl-C ended


def sampling_options(command: Callable) -> Callable:
    """Adds an option for each field of Sampling, under the field's name and with its default."""
    default = Sampling()
    options = (
        click.option("-n", "--max-tokens", type=int, help="Tokens at most; else until the context is full."),
        click.option("--temperature", "--temp", default=default.temperature, help="0 takes the likeliest token."),
        click.option("--top-k", default=default.top_k, help="Keep the K likeliest tokens; 0 keeps all."),
        click.option("--top-p", default=default.top_p, help="Keep the likeliest tokens that make up this share."),
        click.option("--min-p", default=default.min_p, help="Drop tokens below this share of the likeliest."),
        click.option("--repetition-penalty", default=default.repetition_penalty, help="Above 1: repeat less."),
        click.option("--frequency-penalty", default=default.frequency_penalty, help="Above 0: less of what was often."),
        click.option("--presence-penalty", default=default.presence_penalty, help="Above 0: less of what was at all."),
        click.option("--penalty-window", default=default.penalty_window, help="Tokens that penalties look back on."),
        click.option("--seed", type=int, help="The same seed gives the same text; else a new one each time."),
        click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; any number of them."),
        click.option("--ignore-eos", is_flag=True, help="Go on after the model's end token."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command(context_settings={"show_default": True})
@click.argument("prompt", required=False)
@click.option("-f", "--file", metavar="FILE", help="Read the prompt from a file; - is stdin.")
@click.option("-m", "--model", metavar="FILE", help="A GGUF file; the built-in model if left out.")
@click.option("--chat/--raw", default=None, help="Use the model's chat template, or go on with the text as it is.")
@click.option("--system", metavar="TEXT", help="A system message; implies --chat.")
@sampling_options
@click.option("-c", "--context", type=click.IntRange(min=1), help="Tokens that prompt and text may have.")
@click.option("--kv", "kv_format", type=click.Choice(KV_FORMATS), default="f16", help="What the KV cache holds.")
@click.option("-t", "--threads", type=click.IntRange(min=1), help="CPU threads; default: one a core that may be used.")
@click.option("--huge-pages/--no-huge-pages", default=None, help="On a CPU: copy the weights into huge pages.")
@click.option("--device", type=click.Choice(CHOICES), default="auto", help="What to run on.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end instead of the text.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but the text.")
@verbose
@click.pass_context
def generate(
    ctx: click.Context,
    prompt: str | None,
    file: str | None,
    model: str | None,
    chat: bool | None,
    system: str | None,
    context: int | None,
    kv_format: str,
    threads: int | None,
    huge_pages: bool | None,
    device: str,
    as_json: bool,
    quiet: bool,
    **sampling,
) -> None:
    """Continue a text, or answer a question.

    PROMPT may come from the argument, from --file or from stdin. Without any, the built-in model
    begins a story of its own.
    """
    text = read_prompt(prompt, file)
    if text is None and (model is not None or chat or system is not None):
        raise RequestError("there is no prompt: give PROMPT, --file, or text on stdin")
    if chat is False and system is not None:
        raise RequestError("--system has no place in --raw: the text goes to the model as it is")
    if sampling["seed"] is None:
        sampling["seed"] = secrets.randbits(32)
    settings = Sampling(**sampling)
    for given in (text, system, *settings.stop):
        _check_utf8(given)

    def say(line: str) -> None:
        if not quiet:
            click.echo(line, err=True)

    if quiet:
        logging.getLogger("rocforge").setLevel(logging.ERROR)
    start_s = time.perf_counter()
    with contextlib.ExitStack() as stack:
        progress = None if quiet else stack.enter_context(Progress())
        from rocforge.engine.selftest import verdict

        told = str(choose(device, threads, functools.partial(verdict, progress=progress), huge_pages))
        say(told)
        from rocforge.llm import LLM  # brings Numba: not before every fault that needs no model has been told

        settings_of_model = {
            "device": device, "context": context, "threads": threads, "kv_format": kv_format, "huge_pages": huge_pages
        }  # fmt: skip
        llm = stack.enter_context(LLM(model, **settings_of_model, progress=progress))
        if str(llm.device) != told:  # as was tuned for this model, or for want of memory
            say(str(llm.device))
        tokens = prompt_tokens(llm, text, chat, system, say)
        load_s = time.perf_counter() - start_s
        run = Run(tokens, load_s)
        run.consume(llm.stream(tokens, settings), write=_discard if as_json else _write)
        if as_json:
            click.echo(json.dumps(run.report(llm, settings.seed)))
        elif not run.text.endswith("\n"):
            click.echo()
        say(run.summary(settings.seed))
    if run.finish_reason == "cancelled":
        ctx.exit(CANCELLED)


def read_prompt(prompt: str | None, file: str | None) -> str | None:
    """The prompt that was given, in whichever way; None where there is none.

    Raises RequestError for two prompts, an empty one, and a file that cannot be read.
    """
    if prompt is not None and file is not None:
        raise RequestError("there are two prompts, PROMPT and --file; give one")
    if prompt is not None:
        text = prompt
    elif file is not None:
        text = _read(file)
    elif sys.stdin is None or sys.stdin.isatty():
        return None
    else:
        text = _read("-") or None  # an empty stdin is what a job without a terminal has
    if text == "":
        raise RequestError("the prompt is empty; give some text, or leave it out to have the built-in model begin")
    return text


def _read(file: str) -> str:
    try:
        with click.open_file(file, encoding="utf-8") as stream:
            # The newline that ends a file is the editor's, not the author's.
            return stream.read().removesuffix("\n")
    except OSError as error:
        raise RequestError(f"--file {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"--file {file}: byte {error.start} is not UTF-8; a prompt is text in UTF-8") from None


def _check_utf8(text: str | None) -> None:
    """Raises RequestError for an argument with bytes that are no text (Python gives them as lone surrogates)."""
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"{text!r}: character {error.start} is not UTF-8; give text in UTF-8") from None


def prompt_tokens(
    llm, text: str | None, chat: bool | None, system: str | None, say: Callable[[str], None]
) -> list[int]:
    """The tokens to go on from; says how they were made where there was a choice.

    A model with a chat template was made to be talked to: so that is the default for one.
    """
    if text is None:
        return llm.tokenize("")  # what begins a text, and nothing else
    if chat is None:
        chat = llm.has_chat_template or system is not None
        if chat:
            say("the prompt is put into the model's chat template; --raw goes on with the text as it is")
    if not chat:
        return llm.tokenize(text, parse_special=True)
    messages = [{"role": "user", "content": text}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    # The template writes BOS and the control tokens itself.
    return llm.tokenize(llm.render_chat(messages), add_special=False, parse_special=True)


def _write(text: str) -> None:
    click.echo(text, nl=False)  # flushes


def _discard(_text: str) -> None:
    pass


@dataclass
class Run:
    """What came of a prompt, and when: seconds since the first token was asked for."""

    prompt: list[int]
    load_s: float
    pieces: list[str] = field(default_factory=list)
    n_tokens: int = 0
    finish_reason: str = "cancelled"
    first_s: float = 0.0
    first_tokens: int = 0  # that came with the first text
    last_s: float = 0.0

    def consume(self, chunks, write: Callable[[str], None]) -> None:
        """Takes what comes until it ends or Ctrl-C is pressed."""
        start_s = time.perf_counter()
        try:
            with contextlib.closing(chunks):
                for chunk in chunks:
                    self.last_s = time.perf_counter() - start_s
                    if not self.pieces:
                        self.first_s, self.first_tokens = self.last_s, len(chunk.tokens)
                    self.pieces.append(chunk.text)
                    self.n_tokens += len(chunk.tokens)
                    self.finish_reason = chunk.finish_reason or self.finish_reason
                    write(chunk.text)
        except KeyboardInterrupt:
            self.finish_reason = "cancelled"

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def prompt_rate(self) -> float | None:
        """Prompt tokens a second, the first token's own step included."""
        return len(self.prompt) / self.first_s if self.first_s else None

    @property
    def rate(self) -> float | None:
        """Tokens a second after the first text; None where there were no more."""
        later_s = self.last_s - self.first_s
        return (self.n_tokens - self.first_tokens) / later_s if later_s > 0 else None

    def report(self, llm, seed: int) -> dict:
        """What --json prints."""
        return {
            "text": self.text,
            "prompt_tokens": len(self.prompt),
            "generated_tokens": self.n_tokens,
            "finish_reason": self.finish_reason,
            "timing": {
                "load_s": self.load_s,
                "first_token_s": self.first_s,
                "total_s": self.last_s,
                "prompt_tokens_per_s": self.prompt_rate,
                "generated_tokens_per_s": self.rate,
            },
            "peak_memory_bytes": peak_resident_bytes(),
            "device": {"kind": llm.device.kind, "name": llm.device.name, "reason": llm.device.reason},
            "model": str(llm.path),
            "seed": seed,
        }

    def summary(self, seed: int) -> str:
        """One line for a person."""

        def at(rate: float | None) -> str:
            return "" if rate is None else f" at {rate:,.1f}/s"

        return (
            f"prompt: {len(self.prompt)} tokens{at(self.prompt_rate)}; text: {self.n_tokens} tokens{at(self.rate)}; "
            f"first token after {self.first_s:.2f} s (loading {self.load_s:.2f} s); "
            f"peak memory {peak_resident_bytes() / 2**20:,.0f} MiB; ended by {self.finish_reason}; seed {seed}"
        )
