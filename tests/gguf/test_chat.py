"""Chat templates: rendered as the models were trained, refused with one line, kept in their box."""

import time
import tracemalloc

import pytest

from rocforge.errors import ModelError, RequestError
from rocforge.gguf import chat
from rocforge.gguf.chat import find_template, render_chat

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA2 = """\
{% if messages[0]['role'] == 'system' %}
    {% set system = messages[0]['content'] %}
    {% set rest = messages[1:] %}
{% else %}
    {% set system = false %}
    {% set rest = messages %}
{% endif %}
{% for m in rest %}
    {% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate') }}
    {% endif %}
    {% if m.role == 'user' %}
        {{- bos_token + '[INST] ' + (('<<SYS>>' + system + '<</SYS>>') if loop.first and system else '') + m.content | trim + ' [/INST]' }}
    {% elif m.role == 'assistant' %}
        {{- ' ' + m.content | trim + ' ' + eos_token }}
    {% endif %}
{% endfor %}
"""
HI = [{"role": "user", "content": " hi "}]


def test_chatml():
    assert render_chat(CHATML, HI) == "<|im_start|>user\n hi <|im_end|>\n<|im_start|>assistant\n"
    assert render_chat(CHATML, HI, add_generation_prompt=False) == "<|im_start|>user\n hi <|im_end|>\n"


def test_blocks_are_trimmed():
    messages = [{"role": "system", "content": "S"}, *HI, {"role": "assistant", "content": "yo"}, *HI]
    got = render_chat(LLAMA2, messages, bos_token="<s>", eos_token="</s>")
    # The newline after a block goes, the one after an expression stays.
    assert got == "<s>[INST] <<SYS>>S<</SYS>>hi [/INST]\n yo </s>\n<s>[INST] hi [/INST]\n"


def test_what_templates_find_at_hand():
    assert render_chat("{{ messages | tojson }}", HI) == '[{"role": "user", "content": " hi "}]'
    assert render_chat("{{ strftime_now('%Y') }}", HI) == time.strftime("%Y")
    assert render_chat("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", HI) == "01"
    assert render_chat("{{ tools }}{{ x }}", HI, x=5) == "5"
    assert render_chat("{{ messages | tojson(separators=(',', ':')) }}", HI) == '[{"role":"user","content":" hi "}]'
    assert render_chat("{% generation %}{{ messages[0].content }}{% endgeneration %}", HI) == " hi "
    assert render_chat("{{ '{}: {:.1f}'.format('a', 2) }}{{ ', '.join(['b', 'c']) ~ 'd'.replace('d', 'e') }}", HI) == "a: 2.0b, ce"
    assert render_chat("{% macro f(context, function) %}{{ context * function }}{% endmacro %}{{ f(context=2, function=3) }}", HI) == "6"
    assert render_chat("{% for m in messages %}{{ loop.length }}{{ loop.last }}{% else %}none{% endfor %}", HI) == "1True"


def test_a_template_may_refuse():
    with pytest.raises(RequestError, match="refuses the messages: roles must alternate"):
        render_chat(LLAMA2, HI * 2)


def test_a_refusal_is_one_line():
    with pytest.raises(RequestError) as error:
        render_chat(r"{{ raise_exception('a\nb') }}", HI)
    assert str(error.value) == "the chat template refuses the messages: a b"


@pytest.mark.parametrize("messages", [[], [{"content": "x"}], [{"role": "user"}], ["hi"], [{"role": 5, "content": "x"}]])
def test_messages_of_another_shape_are_refused(messages):
    with pytest.raises(RequestError, match="message"):
        render_chat(CHATML, messages)


@pytest.mark.parametrize(
    "template",
    [
        "{% for %}", "{{ 1 / 0 }}", "{{ messages.nothing.at_all }}", "{{ 'a' + 5 }}", "{{ undefined_function() }}",
        "{% include 'other' %}", "{{ messages[0]['content'].__class__.__mro__ }}", "{{ ''.__class__ }}{{ (1).__class__.__bases__ }}",
        "{{ messages.append(1) }}", "{{ 'a' * 10 ** 9 }}", "{{ 10 ** 100000 }}", "{{ range(10 ** 9) | list }}",
        "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
    ],
)  # fmt: skip
def test_a_broken_or_hostile_template_is_one_line_and_quick(template):
    start = time.process_time()
    try:
        text = render_chat(template, HI, source="model.gguf")
    except ModelError as error:
        assert str(error).startswith("model.gguf") and "\n" not in str(error)
    else:
        # What the sandbox makes undefined prints as nothing.
        assert text == ""
    assert time.process_time() - start < 5


NESTED = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
FILTERED = NESTED.replace("j in range(99999)", "j in range(99999) if false")
DOUBLED = "{% set ns = namespace(s=START) %}{% for i in range(60) %}{% set ns.s = NEXT %}{% endfor %}{{ ns.s }}"
TWICE = "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"


@pytest.mark.parametrize("template", [NESTED, FILTERED, TWICE])
def test_no_template_runs_for_ever(template, monkeypatch):
    monkeypatch.setattr(chat, "_LONGEST_S", 0.2)
    start = time.thread_time()
    with pytest.raises(ModelError, match="failed: it is not done after 0.2 s; use the prompt as it is"):
        render_chat(template, HI)
    assert time.thread_time() - start < 2


DOUBLINGS = [("'ab'", "ns.s + ns.s"), ("'ab'", "ns.s ~ ns.s"), ("['ab' * 999]", "[ns.s, ns.s]"), ("['ab' * 999]", "ns.s + ns.s")]
PADDINGS = [
    "('x' * 999999) | replace('x', 'y' * 99)", "('x' * 999999).replace('x', 'y' * 99)",
    "'%99999999d' % 1", "'%*d' % (99999999, 1)", "'{x:99999999}'.format_map({'x': 1})",
    "'%99999999d' | format(1)", "'{:99999999}'.format(1)", "'{:{}}'.format(1, 99999999)", "('x' * 999).join(range(99999))",
    "range(99999) | join('x' * 999)",
    "range(99999) | map('replace', '1', 'x' * 9999) | join", "messages | tojson(indent=99999999)", "'a\\nb' | indent(99999999)",
    "(10 ** 60) ** 60 * (10 ** 60) ** 60", "2 ** (10 ** 9)",
]  # fmt: skip
HUGE = [DOUBLED.replace("START", a).replace("NEXT", b) for a, b in DOUBLINGS] + [f"{{{{ {p} }}}}" for p in PADDINGS]


@pytest.mark.parametrize("template", HUGE)
def test_no_template_fills_the_memory(template, monkeypatch):
    monkeypatch.setattr(chat, "_LONGEST", 1 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match="failed: it makes more than 1 MiB of text; use the prompt as it is"):
            render_chat(template, HI)
        # Operands of a megabyte may be there, not the hundred that would come of them.
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["center", "ljust", "rjust", "zfill", "expandtabs"])
def test_no_template_pads(name):
    for text in (f"{{{{ 'a'.{name}(99999999) }}}}", f"{{{{ 'a' | {name}(99999999) }}}}"):
        with pytest.raises(ModelError, match="use the prompt as it is"):
            render_chat(text, HI)


def test_a_model_without_template_says_what_to_do():
    with pytest.raises(ModelError, match="m.gguf: the model has no chat template; give it plain text .--raw."):
        find_template({}, "m.gguf")
    assert find_template({"tokenizer.chat_template": CHATML}, "m.gguf") == CHATML
