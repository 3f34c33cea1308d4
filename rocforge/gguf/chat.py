"""Conversations as text: the model's own template, in a sandbox. Knows no tokens but their names."""

import inspect
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import wraps
from typing import Any

from rocforge.errors import ModelError, RequestError

TEMPLATE_KEY = "tokenizer.chat_template"
# What a template may use: characters, in the text and in any value that it makes, and processor time.
_LONGEST, _LONGEST_S = 16 << 20, 5.0
# What pads to any width: no model's template needs it.
_NO_FILTERS = ("batch", "center", "slice", "wordwrap")
_NO_METHODS = {"center", "expandtabs", "ljust", "rjust", "translate", "zfill"}
# A field of a format string that is wider than 9,999, or as wide as an argument says.
_WIDE = re.compile(r"%[^a-zA-Z%]*(\d{5}|\*)|\{[^{}]*\d{5}|\{[^{}]*:[^{}]*\{")


def render_chat(
    template: str,
    messages: list[dict],
    *,
    bos_token: str = "",
    eos_token: str = "",
    add_generation_prompt: bool = True,
    source: Any = "the chat template",
    **variables: Any,
) -> str:
    """The conversation as the text that the model was trained on.

    `messages` are {"role": ..., "content": ...}. Templates are Jinja2 as Hugging Face's tokenizers
    run them: blocks trimmed, raise_exception, strftime_now and tojson at hand; in a sandbox that
    reaches no attributes of Python's and bounds the time and the text that a template may take.

    Raises ModelError for a template that is no valid Jinja2 or fails, RequestError where it refuses
    the messages.
    """
    from jinja2 import TemplateError

    _check(messages)
    variables |= {"messages": messages, "bos_token": bos_token, "eos_token": eos_token}
    try:
        pieces, length = [], 0
        for piece in _compile(template).generate(add_generation_prompt=add_generation_prompt, **variables):
            pieces.append(piece)
            length += len(piece)
            _fits(length)
    except _Refused as e:
        raise RequestError(f"{source} refuses the messages: {_line(e)}") from None
    except TemplateError as e:
        where = f" (line {e.lineno})" if getattr(e, "lineno", None) else ""
        raise ModelError(f"{source}{where}: {_line(e)}; use the prompt as it is (--raw)") from None
    except Exception as e:
        # The template is code out of the file: whatever it raises is the file's fault.
        raise ModelError(f"{source} failed: {_line(e)}; use the prompt as it is (--raw)") from None
    return "".join(pieces)


def find_template(metadata: Mapping[str, Any], path: Any) -> str:
    """The template of a model file. Raises ModelError where it has none."""
    template = metadata.get(TEMPLATE_KEY)
    if not isinstance(template, str) or not template:
        raise ModelError(f"{path}: the model has no chat template; give it plain text (--raw)")
    return template


def _check(messages: list[dict]) -> None:
    if not messages:
        raise RequestError("the conversation is empty: at least one message is needed")
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str) or "content" not in message:
            raise RequestError(f'message {i} is not {{"role": ..., "content": ...}}')


class _Refused(Exception):
    """What a template's raise_exception raises."""


def _refuse(message: str):
    raise _Refused(message)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _to_json(value: Any, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


# ---- bounds: a template must neither run for ever nor fill the memory


def _size(value: Any) -> int:
    """Characters that the value takes when it is written out, about; counted to just beyond the longest."""
    size, rest = 0, [value]
    while rest and size <= _LONGEST:
        v = rest.pop()
        size += len(v) if isinstance(v, str) else 1
        if isinstance(v, Mapping):
            rest += [*v.keys(), *v.values()]
        elif isinstance(v, (list, tuple)):
            rest += v
    return size


def _fits(size: int) -> None:
    if size > _LONGEST:
        raise ValueError(f"it makes more than {_LONGEST >> 20} MiB of text")


def _product(a: Any, b: Any) -> int:
    if isinstance(a, int) and isinstance(b, int):
        return _LONGEST + 1 if a.bit_length() + b.bit_length() > 4096 else 0
    return _size(a) * b if isinstance(b, int) else _size(b) * a if isinstance(a, int) else 0


def _format(form: Any, *_: Any, **__: Any) -> int:
    return _LONGEST + 1 if isinstance(form, str) and _WIDE.search(form) else 0


def _join(texts: Any, between: str = "", *_: Any, **__: Any) -> int:
    return _size(texts) + len(texts) * len(between)


def _replace(text: Any, old: str, new: str, *_: Any, **__: Any) -> int:
    return _size(text) + str(text).count(old) * len(new)


# Operations that can make much out of little: operands -> characters of the result, about.
_GROWTH: dict[str, Callable[..., int]] = {
    "*": _product,
    "**": lambda a, b: _LONGEST + 1 if abs(b) > 64 else _product(a, a),
    "%": _format,
    "format": _format,
    "indent": lambda text, width=4, *_, **__: text.count("\n") * (width if isinstance(width, int) else len(width)),
    "join": _join,
    "replace": _replace,
    "tojson": lambda value, ensure_ascii=False, indent=0, *_, **__: _size(value) * (1 + (indent or 0)),
    "str.format": _format,
    "str.format_map": _format,
    "str.join": lambda between, texts: _join(texts, between),
    "str.replace": _replace,
}


class _Bounds:
    """What one rendering may still take. Every item, call, filter and operation of it passes here."""

    def __init__(self):
        self._end_s = time.thread_time() + _LONGEST_S

    def check(self, value: Any) -> Any:
        """The value, if it is not too large and it is not too late."""
        if time.thread_time() > self._end_s:
            raise TimeoutError(f"it is not done after {_LONGEST_S:g} s")
        _fits(_size(value))
        return value

    def steps(self, items: Iterable) -> Iterator:
        """The items, each of them checked, and all of them together."""
        size = 0
        for item in items:
            size += _size(self.check(item))
            _fits(size)
            yield item

    def run(self, name: str, function: Callable, args: Iterable, options: dict, subject: tuple = ()) -> Any:
        """function(*args, **options), if its result fits. `subject`: a method's object, its first operand."""
        args = [self.steps(a) if isinstance(a, Iterator) else a for a in args]
        if name in _GROWTH:
            # What can be gone through only once becomes a list, which can be measured.
            args = [list(a) if isinstance(a, Iterator) else a for a in args]
            # Some filters are given the environment or the context before their operands.
            operands = args[1:] if hasattr(function, "jinja_pass_arg") else args
            _fits(_GROWTH[name](*subject, *operands, **options))
        return self.check(function(*args, **options))

    def filter(self, name: str, function: Callable) -> Callable:
        @wraps(function)
        def bounded(*args, **options):
            return self.run(name, function, args, options)

        return bounded


def _compile(template: str):
    """The template, in a sandbox and within bounds that begin to count now."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.visitor import NodeTransformer

    bounds = _Bounds()

    class Sandbox(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset({"+", "*", "**", "%"})

        def call_binop(self, context, operator, left, right):
            return bounds.run(operator, self.binop_table[operator], (left, right), {})

        def call(self, context, function, /, *args, **options):
            owner = getattr(inspect.unwrap(function), "__self__", None)
            subject = (owner,) if isinstance(owner, str) else ()
            name = f"str.{function.__name__}" if subject else ""
            call = super().call
            return bounds.run(name, lambda *a, **o: call(context, function, *a, **o), args, options, subject)

        def is_safe_attribute(self, obj, attr, value):
            return super().is_safe_attribute(obj, attr, value) and not (isinstance(obj, str) and attr in _NO_METHODS)

    class Generation(Extension):
        """{% generation %}, by which training templates mark the answers: what is in it, as it is."""

        tags = {"generation"}

        def parse(self, parser):
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    class Bounded(NodeTransformer):
        """Puts the bounds where no call is: into loops, `~`, and lists and the like."""

        def visit_For(self, node):
            self.generic_visit(node)
            node.iter = nodes.Filter(node.iter, "steps", [], [], None, None)
            return node

        def visit_Concat(self, node):
            self.generic_visit(node)
            return nodes.Filter(node, "check", [], [], None, None)

        visit_List = visit_Dict = visit_Concat

    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation])
    environment.filters["tojson"] = _to_json
    kept = {name: function for name, function in environment.filters.items() if name not in _NO_FILTERS}
    environment.filters = {name: bounds.filter(name, function) for name, function in kept.items()}
    environment.filters |= {"steps": bounds.steps, "check": bounds.check}
    del environment.globals["lipsum"]
    environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
    return environment.from_string(Bounded().visit(environment.parse(template)))
