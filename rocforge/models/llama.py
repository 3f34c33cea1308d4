"""Llama, Mistral, Yi and the many that share their shape. RoPE turns interleaved pairs."""

from rocforge.models.config import ModelConfig
from rocforge.models.builder import Builder
from rocforge.plan.ir import Plan, Value

ROPE_LAYOUT = "interleaved"


def build(b: Builder, c: ModelConfig, qkv_bias: bool = False, head_norm: bool = False) -> Plan:
    """The forward pass. `qkv_bias` and `head_norm` are what the Qwen families add."""
    x = b.embed("token_embd")
    table = b.rope_table()
    for i in range(c.n_layers):
        b.layer(i)
        x = b.add(attention(b, c, b.rms_norm(x, "attn_norm"), table, qkv_bias, head_norm), x)
        x = b.add(feed_forward(b, c, b.rms_norm(x, "ffn_norm")), x)
    b.layer(None)
    x = b.rms_norm(b.gather(x), "output_norm")
    return b.finish(b.linear(x, "output", c.vocab_size, tied_to="token_embd"))


def attention(b: Builder, c: ModelConfig, h: Value, table: Value, qkv_bias: bool, head_norm: bool) -> Value:
    q = b.linear(h, "attn_q", c.n_heads * c.head_dim, bias=qkv_bias)
    k = b.linear(h, "attn_k", c.n_kv_heads * c.head_dim, bias=qkv_bias)
    v = b.linear(h, "attn_v", c.n_kv_heads * c.head_dim, bias=qkv_bias)
    if head_norm:
        q, k = b.head_norm(q, "attn_q_norm"), b.head_norm(k, "attn_k_norm")
    out = b.attention(b.rope(q, table), b.rope(k, table), v)
    return b.linear(out, "attn_output", c.d_model)


def feed_forward(b: Builder, c: ModelConfig, h: Value) -> Value:
    gate, up = b.linear(h, "ffn_gate", c.d_ff), b.linear(h, "ffn_up", c.d_ff)
    return b.linear(b.silu_mul(gate, up), "ffn_down", c.d_model)
