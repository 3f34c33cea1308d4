"""Qwen2 (with biases on q, k and v) and Qwen3 (with a norm on each head of q and k). RoPE turns halves."""

from rocforge.models import llama
from rocforge.models.config import ModelConfig
from rocforge.models.builder import Builder
from rocforge.plan.ir import Plan

ROPE_LAYOUT = "half"


def build_qwen2(b: Builder, c: ModelConfig) -> Plan:
    return llama.build(b, c, qkv_bias=True)


def build_qwen3(b: Builder, c: ModelConfig) -> Plan:
    return llama.build(b, c, head_norm=True)
