"""Conversations as text: the model's own template, in a sandbox. Knows no tokens but their names."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rocforge.errors import ModelError, RequestError

TEMPLATE_KEY = "tokenizer.chat_template"
# Characters that a template may make: far beyond any context.
_LONGEST = 16 << 20


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
    reaches no attributes of Python's and bounds what is written.

    Raises ModelError for a template that is no valid Jinja2 or fails, RequestError where it refuses
    the messages.
    """
    from jinja2 import TemplateError

    _check(messages)
    try:
        compiled = _environment().from_string(template)
        variables |= {"messages": messages, "bos_token": bos_token, "eos_token": eos_token}
        pieces, length = [], 0
        for piece in compiled.generate(add_generation_prompt=add_generation_prompt, **variables):
            pieces.append(piece)
            length += len(piece)
            if length > _LONGEST:
                raise ModelError(f"{source}: writes more than {_LONGEST >> 20} MiB of text")
    except _Refused as e:
        raise RequestError(f"{source} refuses the messages: {e}") from None
    except TemplateError as e:
        where = f" (line {e.lineno})" if getattr(e, "lineno", None) else ""
        raise ModelError(f"{source}{where}: {e.message or type(e).__name__}; use the prompt as it is (--raw)") from None
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, RecursionError) as e:
        raise ModelError(f"{source} failed: {e}; use the prompt as it is (--raw)") from None
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


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _environment():
    from jinja2.exceptions import SecurityError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Bounded(ImmutableSandboxedEnvironment):
        # 'a' * 10**9 and 10**10**10 take no loop.
        intercepted_binops = frozenset({"*", "**"})

        def call_binop(self, context, operator, left, right):
            sizes = [len(v) for v in (left, right) if hasattr(v, "__len__")]
            numbers = [v for v in (left, right) if isinstance(v, (int, float))]
            if sizes and numbers and sizes[0] * numbers[0] > _LONGEST or operator == "**" and abs(right) > 64:
                raise SecurityError(f"an operand of {operator} is too large")
            return super().call_binop(context, operator, left, right)

    environment = Bounded(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
    environment.filters["tojson"] = _to_json
    return environment
