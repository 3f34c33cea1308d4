"""The built-in model as a torch module: Llama's architecture, parameters under GGUF's names. Trains nothing.

RoPE turns interleaved pairs (2i, 2i+1), as GGUF's llama files want them, so no row is permuted on export.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    vocab_size: int
    d_model: int = 256
    n_layers: int = 6
    n_heads: int = 4
    n_kv_heads: int = 2
    d_ff: int = 768
    context: int = 512
    theta: float = 10_000.0
    eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.d_model // self.n_heads

    def metadata(self) -> dict[str, object]:
        """What GGUF says of the shape."""
        return {
            "llama.vocab_size": self.vocab_size,
            "llama.context_length": self.context,
            "llama.embedding_length": self.d_model,
            "llama.block_count": self.n_layers,
            "llama.feed_forward_length": self.d_ff,
            "llama.attention.head_count": self.n_heads,
            "llama.attention.head_count_kv": self.n_kv_heads,
            "llama.attention.layer_norm_rms_epsilon": self.eps,
            "llama.rope.dimension_count": self.head_dim,
            "llama.rope.freq_base": self.theta,
        }


class Norm(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(c.d_model))
        self.eps = c.eps

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


class Block(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.c = c
        kv = c.n_kv_heads * c.head_dim
        self.attn_norm = Norm(c)
        self.attn_q = nn.Linear(c.d_model, c.d_model, bias=False)
        self.attn_k = nn.Linear(c.d_model, kv, bias=False)
        self.attn_v = nn.Linear(c.d_model, kv, bias=False)
        self.attn_output = nn.Linear(c.d_model, c.d_model, bias=False)
        self.ffn_norm = Norm(c)
        self.ffn_gate = nn.Linear(c.d_model, c.d_ff, bias=False)
        self.ffn_up = nn.Linear(c.d_model, c.d_ff, bias=False)
        self.ffn_down = nn.Linear(c.d_ff, c.d_model, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attention(self.attn_norm(x), cos, sin)
        h = self.ffn_norm(x)
        return x + self.ffn_down(F.silu(self.ffn_gate(h)) * self.ffn_up(h))

    def attention(self, h: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, t, _ = h.shape
        heads = lambda x: x.view(b, t, -1, self.c.head_dim).transpose(1, 2)
        q, k, v = heads(self.attn_q(h)), heads(self.attn_k(h)), heads(self.attn_v(h))
        # One kv-head serves a run of neighbouring q-heads.
        k, v = (x.repeat_interleave(self.c.n_heads // self.c.n_kv_heads, dim=1) for x in (rotate(k, cos, sin), v))
        out = F.scaled_dot_product_attention(rotate(q, cos, sin), k, v, is_causal=True)
        return self.attn_output(out.transpose(1, 2).reshape(b, t, -1))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE of [B, H, T, D] with cos and sin [T, D/2]: each pair (2i, 2i+1) turns by position * theta^(-2i/D)."""
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x.dtype)


class StoryModel(nn.Module):
    """Token ids [B, T] -> logits [B, T, V]; the embedding is the output matrix too."""

    def __init__(self, c: Config):
        super().__init__()
        self.c = c
        self.token_embd = nn.Embedding(c.vocab_size, c.d_model)
        self.blk = nn.ModuleList(Block(c) for _ in range(c.n_layers))
        self.output_norm = Norm(c)
        angles = torch.outer(
            torch.arange(c.context, dtype=torch.float64),
            c.theta ** (-torch.arange(0, c.head_dim, 2, dtype=torch.float64) / c.head_dim),
        )
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                # What is added to the residual stream starts smaller, by the number of additions.
                is_residual = name.endswith(("attn_output.weight", "ffn_down.weight"))
                nn.init.normal_(p, std=0.02 / (2 * c.n_layers) ** 0.5 if is_residual else 0.02)

    def forward(self, ids: Tensor) -> Tensor:
        t = ids.shape[1]
        x = self.token_embd(ids)
        for block in self.blk:
            x = block(x, self.cos[:t], self.sin[:t])
        return F.linear(self.output_norm(x), self.token_embd.weight)

    @torch.no_grad()
    def sample(self, ids: list[int], end: int, temperature: float, seed: int) -> list[int]:
        """Go on from these ids until `end` or until the context is full."""
        device = self.token_embd.weight.device
        generator = torch.Generator().manual_seed(seed)
        ids = list(ids)
        while len(ids) < self.c.context:
            logits = self(torch.tensor([ids], device=device))[0, -1].float().cpu()
            ids.append(int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)))
            if ids[-1] == end:
                break
        return ids
