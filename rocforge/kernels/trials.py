"""The op of a key over arrays of its own, to be launched with one tile after another. Times nothing, judges nothing.

On the device "meta" arrays have no memory: launches can be recorded and compiled there. Elsewhere they hold
random values, and there are several copies of what a launch reads most of, so that no cache holds what comes next.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from rocforge.gguf.formats import BY_NAME, Q8, Q8_BLOCK, Q8_SUM_BLOCK, Format, Q8Cache
from rocforge.kernels import launch, layout
from rocforge.kernels.activation import swiglu
from rocforge.kernels.attention import PAGE, attention
from rocforge.kernels.cost import KEYS, is_prefill
from rocforge.kernels.embed import embed
from rocforge.kernels.gemv_norm import linear_norm
from rocforge.kernels.gemv_rope import linear_rope
from rocforge.kernels.matmul import linear
from rocforge.kernels.norm import Root, rms_norm
from rocforge.kernels.quantize import quantize
from rocforge.probe.tuned import Key

# Bytes that the copies have together: more than any cache between a GPU and its memory (256 MiB on the MI300).
ROTATE_BYTES = 512 << 20
MOST_COPIES = 64
# Rows of random blocks that a matrix is filled with, again and again; rows that are filled at once.
FILL_ROWS, PIECE_ROWS = 64, 4096
# Pages of a sequence's table: the context that splits are made for.
CONTEXT_PAGES = 128

# What is timed together: a kernel, and what joins its parts.
WITH = {"attend_split": ("join_splits",), "attend_lanes": ("join_splits",), "gemm_blocks": ("add_parts",)}

# Roundings of two orders of summing up, of what a result is made of: float32, float16 (see tests/ops).
U, H = 2.0**-24, 2.0**-11

# GGUF bytes of random rows, uint8 [rows, row bytes], for (format, rows, columns).
Blocks = Callable[[Format, int, int], np.ndarray]


class Trial(NamedTuple):
    """An op's call for copy i, the copies, what it writes, and how far two tiles' results may lie apart.

    `limit()` gives a tensor of the outputs' shape, or a number, for each of `outputs`.
    """

    call: Callable[[int], None]
    copies: int
    outputs: tuple[torch.Tensor, ...]
    limit: Callable[[], tuple[Any, ...]]


def launches_of(key: Key, program: launch.Program) -> list[launch.Launch]:
    """Those of a key's kernel, of all that its op launches."""
    names = (key.kernel, *WITH.get(key.kernel, ()))
    return [made for made in program.launches if made.kernel.__name__ in names]


def make(key: Key, device: "str | torch.device", blocks: Blocks | None = None) -> Trial:
    """The op of a key. `blocks` is needed wherever there is memory."""
    return _MAKERS[key.kernel](key, torch.device(device), blocks)


def _copies(n_bytes: int, device: torch.device) -> int:
    if device.type == "meta":
        return 1
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return max(1, min(MOST_COPIES, -(-ROTATE_BYTES // n_bytes), free // 4 // n_bytes))
    return 1


def _normal(shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    made = torch.empty(shape, dtype=torch.float32, device=device)
    return made if device.type == "meta" else made.normal_(generator=torch.Generator(device).manual_seed(0))


def _q8(T: int, K: int, device: torch.device) -> Q8:
    sums = torch.empty((T, K // Q8_SUM_BLOCK), dtype=torch.int16, device=device)
    return Q8(torch.empty((T, K), dtype=torch.int8, device=device), _normal((T, K // Q8_BLOCK), device), sums)


def _activations(T: int, K: int, device: torch.device) -> Q8:
    x = _q8(T, K, device)
    if device.type != "meta":
        quantize(_normal((T, K), device), x)
    return x


def _matrix(format: Format, N: int, K: int, device: torch.device, blocks: Blocks | None) -> layout.Matrix:
    """Row n is random row n % FILL_ROWS."""
    made = layout.empty(format, N, K, device)
    if device.type != "meta":
        rows = min(N, FILL_ROWS)
        raw = torch.from_numpy(np.array(blocks(format, rows, K))).view(rows, -1).to(device)
        piece = raw.repeat(-(-min(N, PIECE_ROWS) // rows), 1)
        for first in range(0, N, len(piece)):
            layout.fill(made, piece[: N - first], first)
    return made


def _copied(matrix: layout.Matrix, device: torch.device) -> layout.Matrix:
    made = layout.empty(matrix.format, matrix.rows, matrix.columns, device)
    for to, plane in zip(made.planes, matrix.planes, strict=True):
        to.copy_(plane)
    made.bounds.copy_(matrix.bounds)
    return made


def _copies_of(format: Format, N: int, K: int, device: torch.device, blocks: Blocks | None) -> list[layout.Matrix]:
    """A matrix as often as there are copies."""
    first = _matrix(format, N, K, device, blocks)
    return [first, *(_copied(first, device) for _ in range(_copies(layout.n_bytes(format, N, K), device) - 1))]


# ---- the ops


def _linear(key: Key, device: torch.device, blocks: Blocks | None) -> Trial:
    (N, K), T, format = key.shape, key.tokens, BY_NAME[key.format]
    x = _normal((T, K), device) if format.is_float else _activations(T, K, device)
    matrices = _copies_of(format, N, K, device, blocks)
    out = torch.empty((T, N), dtype=torch.float32, device=device)
    limit = lambda: (_limit_of_sums(x, format, N, K, blocks, device),)
    return Trial(lambda i: linear(x, (matrices[i],), None, None, out), len(matrices), (out,), limit)


def _limit_of_sums(x: "Q8 | torch.Tensor", format: Format, N: int, K: int, blocks: Blocks, device: torch.device) -> torch.Tensor:
    """[T, N]: K additions in either order, of products whose magnitudes sum up to |x| |w| at the most (Cauchy)."""
    norms = _row_norms(blocks(format, min(N, FILL_ROWS), K), format, K, device)
    norms = norms.repeat(-(-N // len(norms)))[:N]
    float_x = x if format.is_float else x.values.float() * x.scales.repeat_interleave(Q8_BLOCK, 1)
    return 2 * 2 * K * U * float_x.norm(dim=1)[:, None] * norms[None, :]


def _linear_norm(key: Key, device: torch.device, blocks: Blocks | None) -> Trial:
    """What gemv_norm writes but for the squares, which nobody keeps."""
    (N, K), T, format = key.shape, key.tokens, BY_NAME[key.format]
    matrices, x = _copies_of(format, N, K, device, blocks), _activations(T, K, device)
    residual, out = _normal((T, N), device), torch.empty((T, N), dtype=torch.float32, device=device)
    weight, normed = _normal((N,), device), _q8(T, N, device)

    def limit() -> tuple[torch.Tensor, ...]:
        """Of values what a sum may be off by in steps of 8 bits, twice (the largest of the block is off too), and one step more
        for what stands between two of them; of a scale what its block's largest may be off by."""
        of_out = _limit_of_sums(x, format, N, K, blocks, device)
        off = of_out * weight.abs() + U * (out * weight).abs()
        largest = off.view(T, -1, Q8_BLOCK).amax(2)
        steps = normed.scales.clamp_min(1e-30).repeat_interleave(Q8_BLOCK, 1)
        of_values = 1 + 2 * largest.repeat_interleave(Q8_BLOCK, 1) / steps
        of_sums = of_values.view(T, -1, Q8_SUM_BLOCK).sum(2)
        return of_out + 2 * U * out.abs(), of_values, largest / 127 + 4 * U * normed.scales, of_sums

    call = lambda i: linear_norm(x, matrices[i], None, residual, out, weight, normed, 1e-5)
    return Trial(call, len(matrices), (out, *normed), limit)


def _linear_rope(key: Key, device: torch.device, blocks: Blocks | None) -> Trial:
    """Of queries alone, of the widest usual heads that the rows are whole ones of."""
    (N, K), T, format = key.shape, key.tokens, BY_NAME[key.format]
    matrices, x = _copies_of(format, N, K, device, blocks), _activations(T, K, device)
    D = math.gcd(N, 128)
    out = torch.empty((T, N), dtype=torch.float32, device=device)
    root = Root(torch.full((K // Q8_BLOCK,), float(Q8_BLOCK), device=device), 1e-5)
    zeros = torch.zeros(T, dtype=torch.int32, device=device)
    given = {
        "qkv": out, "table": _normal((T, D), device).clamp_(-1, 1), "positions": zeros, "sequences": zeros,
        "page_table": torch.zeros((1, CONTEXT_PAGES), dtype=torch.int32, device=device), "q_norm": None, "k_norm": None,
        **{name: _cache("f16", (1, 1, PAGE, D), device) for name in ("k_cache", "v_cache")},
        "heads": N // D, "kv_heads": 1, "head_dim": D, "layout": "interleaved", "eps": 1e-5,
    }  # fmt: skip

    def limit() -> tuple[torch.Tensor]:
        """Of a pair both are in both of its results, by factors of one at the most; and two roundings of these."""
        of_pair = _limit_of_sums(x, format, N, K, blocks, device).view(T, -1, 2).sum(2)
        return (of_pair.repeat_interleave(2, 1) + 4 * U * out.abs(),)

    call = lambda i: linear_rope(x, (matrices[i],), None, root, **given)
    return Trial(call, len(matrices), (out,), limit)


def _row_norms(raw: np.ndarray, format: Format, K: int, device: torch.device) -> torch.Tensor:
    rows = len(raw)
    table = layout.matrix(raw, format, rows, K, device)
    out = torch.empty((rows, K), dtype=torch.float32, device=device)
    embed(torch.arange(rows, dtype=torch.int32, device=device), table, out)
    return out.norm(dim=1)


def _embed(key: Key, device: torch.device, blocks: Blocks | None) -> Trial:
    """Rows from all over the table. They are few: what is timed finds them in a cache."""
    (N, K), T = key.shape, key.tokens
    table = _matrix(BY_NAME[key.format], N, K, device, blocks)
    tokens = torch.empty(T, dtype=torch.int32, device=device)
    if device.type != "meta":
        tokens.copy_(torch.arange(T, dtype=torch.int64) * 7919 % N)
    out = torch.empty((T, K), dtype=torch.float32, device=device)
    return Trial(lambda i: embed(tokens, table, out), 1, (out,), lambda: (0.0,))


def _attention(key: Key, device: torch.device, blocks: Blocks | None) -> Trial:
    """Few tokens: of a sequence each, behind KEYS keys. Many: the last of one sequence of as many."""
    (D, group, G), T = key.shape, key.tokens
    prefill = is_prefill(key)
    S = 2 if prefill else T + 1
    n_keys = max(KEYS, T) if prefill else KEYS
    per = -(-n_keys // PAGE)
    pages = per * (1 if prefill else T)
    element_bytes = {"f16": 2, "f32": 4, "q8_0": 1}[key.format]
    copies = _copies(2 * pages * G * PAGE * D * element_bytes, device)
    caches = [[_cache(key.format, (pages, G, PAGE, D), device) for _ in range(2)] for _ in range(copies)]
    qkv = _normal((T, (group + 2) * G * D), device)
    table = torch.zeros((S, max(CONTEXT_PAGES, per)), dtype=torch.int32, device=device)
    positions, sequences = (torch.empty(T, dtype=torch.int32, device=device) for _ in range(2))
    if device.type != "meta":
        for s in range(1 if prefill else T):
            table[s, :per] = torch.arange(s * per, (s + 1) * per, dtype=torch.int32, device=device)
        order = torch.arange(T, dtype=torch.int32, device=device)
        positions.copy_(n_keys - T + order if prefill else torch.full_like(order, n_keys - 1))
        sequences.copy_(torch.zeros_like(order) if prefill else order)
    out = torch.empty((T, group * G * D), dtype=torch.float32, device=device)
    largest = 1.0 if device.type == "meta" else _largest(caches[0][1])
    # A weight is rounded to float16, relative to the largest so far: in another block by another power of two.
    limit = 3 * H * largest if key.format != "f32" else 4 * (n_keys + D) * U * largest

    def call(i: int) -> None:
        attention(
            qkv, positions, sequences, table, *caches[i], out,
            heads=group * G, kv_heads=G, head_dim=D, scale=D**-0.5, window=0,
        )  # fmt: skip

    return Trial(call, copies, (out,), lambda: (limit,))


def _cache(format: str, shape: tuple[int, ...], device: torch.device) -> "torch.Tensor | Q8Cache":
    if format != "q8_0":
        return _normal(shape, device).to({"f16": torch.float16, "f32": torch.float32}[format])
    values = torch.empty(shape, dtype=torch.int8, device=device)
    scales = torch.full((*shape[:3], shape[3] // Q8_BLOCK), 0.02, dtype=torch.float16, device=device)
    return Q8Cache(values if device.type == "meta" else values.random_(-127, 128), scales)


def _largest(cache: "torch.Tensor | Q8Cache") -> float:
    return 127 * 0.02 if isinstance(cache, Q8Cache) else float(cache.abs().max())


def _rows_op(reads: int, writes_q8: bool, op: Callable[[torch.Tensor, Any, torch.Tensor], None]):
    """A maker for what works on rows: x [T, reads * columns] to [T, columns], in 8 bits or not."""

    def maker(key: Key, device: torch.device, blocks: Blocks | None) -> Trial:
        (columns,), T = key.shape, key.tokens
        copies = _copies(4 * T * columns * (reads + 1), device)
        x = [_normal((T, reads * columns), device) for _ in range(copies)]
        weight = _normal((columns,), device)
        out = _q8(T, columns, device) if writes_q8 else torch.empty((T, columns), dtype=torch.float32, device=device)

        def limit() -> tuple[Any, ...]:
            # A sum of squares in another order: half of its roundings in the root. What stands between two whole
            # numbers may become either, and a sum of 16 of them differ by 16.
            relative = (columns + 16) * U
            if writes_q8:
                return 1, relative * out.scales.abs().clone(), 16
            return (relative * out.abs().clone(),)

        return Trial(lambda i: op(x[i], out, weight), copies, tuple(out) if writes_q8 else (out,), limit)

    return maker


def _norm(x: torch.Tensor, out: Any, weight: torch.Tensor) -> None:
    rms_norm(x, weight, out, eps=1e-5)


_MAKERS: dict[str, Callable[[Key, torch.device, Blocks | None], Trial]] = {
    **dict.fromkeys(("gemv_blocks", "gemv_floats", "gemm_blocks", "gemm_floats", "gemm_plain"), _linear),
    "gemv_norm": _linear_norm,
    "gemv_rope": _linear_rope,
    **dict.fromkeys(("embed_blocks", "embed_floats"), _embed),
    **dict.fromkeys(("attend_tile", "attend_split", "attend_lanes"), _attention),
    "rms_norm_q8": _rows_op(1, True, _norm),
    "rms_norm_f32": _rows_op(1, False, _norm),
    "quantize_rows": _rows_op(1, True, lambda x, out, _: quantize(x, out)),
    "swiglu_q8": _rows_op(2, True, lambda x, out, _: swiglu(x, out)),
    "swiglu_f32": _rows_op(2, False, lambda x, out, _: swiglu(x, out)),
}
