"""Chat templates: rendered as the models were trained, refused with one line, kept in their box."""

import time

import pytest

from rocforge.errors import ModelError, RequestError
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


def test_a_template_may_refuse():
    with pytest.raises(RequestError, match="refuses the messages: roles must alternate"):
        render_chat(LLAMA2, HI * 2)


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


def test_a_model_without_template_says_what_to_do():
    with pytest.raises(ModelError, match="m.gguf: the model has no chat template; give it plain text .--raw."):
        find_template({}, "m.gguf")
    assert find_template({"tokenizer.chat_template": CHATML}, "m.gguf") == CHATML
