"""The ops of a step one after the other; neighbours whose work one kernel can do are one launch. Computes nothing.

Of one token, whose launches take longer to begin and end than to compute:

    linear, rms_norm, linear ..    the first writes what the norm does but for its root, which the second makes (gemv_norm.py)
    linear, rope_store             (gemv_rope.py)
    rope_store, attention          where launches do not begin early (attention.py)

Of more than a few, which the matrix units multiply:

    rms_norm, linear ..            the norm's 8 bits become halves at once (norm.py)
    swiglu, linear                 its 8 bits too (activation.py)
    attention, linear              and its own, where it is joined of parts (attention_decode.py)
    linear, rms_norm, linear ..    so do the norm's, and the parts of the first are joined by who norms them
    linear, rope_store             the parts are joined by who turns them (rope.py)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rocforge.gguf.formats import Q8
from rocforge.kernels import activation, attention, gemm, gemv, gemv_norm, gemv_rope, halves, norm, rope, target
from rocforge.kernels.columns import Order
from rocforge.kernels.halves import Halves
from rocforge.kernels.matmul import linear_of_halves, linear_of_root
from rocforge.kernels.norm import Root

# An op's kind and its launcher's keywords.
Bound = tuple[str, dict[str, Any]]


def launch_each(launchers: Mapping[str, Callable[..., None]], ops: Sequence[Bound]) -> Iterator[int]:
    """What `launchers`, by kind, do of one op after the other. Gives how many ops each launch, or an op's launches, were for.

    The linears that read a norm follow it.
    """
    i, x = 0, None  # x: what the op before has left of the next one's
    while i < len(ops):
        (kind, given), *after = ops[i : i + 3]
        kinds, following = [kind, *(kind for kind, _ in after)], [given for _, given in after]
        n, made = 1, None
        if kinds == ["linear", "rms_norm", "linear"] and _passes(given, *following):
            made = _linear_norm(given, following[0], x)
            n = 2
        elif kinds[:2] == ["rms_norm", "linear"] and _is_many(following[0]) and _is_read(given, following[0]):
            made = norm.to_halves(given["x"], given["weight"], given["eps"], _order(following[0]))
        elif kinds[:2] == ["swiglu", "linear"] and _is_many(following[0]) and _is_read(given, following[0]) and activation.fits(given["gate_up"]):
            made = activation.to_halves(given["gate_up"], _order(following[0]))
        elif kinds[:2] == ["attention", "linear"] and _is_many(following[0]) and _is_read(given, following[0]):
            made = attention.to_halves(_order(following[0]), **given)
        elif kinds[:2] == ["linear", "rope_store"] and _turns(given, following[0]):
            _linear_rope(given, following[0], x)
            n = 2
        elif kinds[:2] == ["rope_store", "attention"]:
            attention.rope_attention(**{**given, **following[0]})
            n = 2
        elif x is None:
            launchers[kind](**given)
        else:
            if isinstance(x, Root):
                linear_of_root(**given, root=x)
            else:
                linear_of_halves(**{**given, "x": x})
            if kinds[:2] == ["linear", "linear"] and _is_same(given["x"], following[0]["x"]):
                made = x
        i, x = i + n, made
        yield n


def launch_all(launchers: Mapping[str, Callable[..., None]], ops: Sequence[Bound]) -> None:
    """launch_each() to its end."""
    for _ in launch_each(launchers, ops):
        pass


def _linear_norm(linear: dict[str, Any], norm_: dict[str, Any], x: "Root | Halves | None") -> "Root | Halves":
    """A linear and the norm of what it makes, and what of the norm is left to its readers."""
    weights, ends = linear["weights"], (linear["bias"], linear["residual"], linear["out"])
    if not _is_many(linear):
        return gemv_norm.linear_norm(linear["x"], *weights, *ends, norm_["weight"], norm_["out"], norm_["eps"], x)
    order = _order(linear)
    parts = gemm.products(_halves(linear, x), weights, *ends)
    if parts is None:
        return norm.to_halves(linear["out"], norm_["weight"], norm_["eps"], order)
    return norm.parts_to_halves(parts, *ends, norm_["weight"], norm_["eps"], order)


def _linear_rope(linear: dict[str, Any], store: dict[str, Any], x: "Root | Halves | None") -> None:
    """The linear of q, k and v, and what turns and stores them."""
    if not _is_many(linear):
        gemv_rope.linear_rope(linear["x"], linear["weights"], linear["bias"], x, **store)
        return
    parts = gemm.products(_halves(linear, x), linear["weights"], linear["bias"], None, linear["out"])
    rope.store(parts, linear["bias"] if parts else None, **store)


def _halves(linear: dict[str, Any], x: "Root | Halves | None") -> Halves:
    """What a linear of many multiplies by: as the op before has left it, or made now."""
    return x if isinstance(x, Halves) else halves.of_q8(linear["x"], _order(linear))


def _is_one(linear: dict[str, Any]) -> bool:
    """Of a linear: whether it is of blocks and one token, and launches are better fewer than with as many programs as there are
    places for."""
    x = linear["x"]
    return isinstance(x, Q8) and len(x.values) == 1 and target.current().backend in ("cuda", "interpreter")


def _is_many(linear: dict[str, Any]) -> bool:
    """Of a linear: whether it is of blocks and goes to the matrix units."""
    x = linear["x"]
    return isinstance(x, Q8) and len(x.values) > gemv.most_tokens()


def _order(linear: dict[str, Any]) -> Order:
    return gemm.order(len(linear["x"].values))


def _is_same(a: Any, b: Any) -> bool:
    return isinstance(a, Q8) and isinstance(b, Q8) and a.values.data_ptr() == b.values.data_ptr()


def _is_read(op: dict[str, Any], linear: dict[str, Any]) -> bool:
    """Whether what an op gives is of 8 bits, and what the linear reads."""
    return _is_same(op["out"], linear["x"])


def _passes(first: dict[str, Any], norm_: dict[str, Any], reader: dict[str, Any]) -> bool:
    """Whether a linear's norm, which another one reads, can be made along with it."""
    if len(first["weights"]) > 1 or norm_["x"].data_ptr() != first["out"].data_ptr() or not _is_read(norm_, reader):
        return False
    return _is_many(first) or (_is_one(first) and gemv_norm.fits(first["weights"][0]))


def _turns(first: dict[str, Any], store: dict[str, Any]) -> bool:
    """Whether a linear makes the q, k and v that are turned, and one launch can do both or hand on parts."""
    out, qkv = first["out"], store["qkv"]
    if first["residual"] is not None or out.shape != qkv.shape or out.data_ptr() != qkv.data_ptr():
        return False
    fits = lambda: gemv_rope.fits(first["weights"], store["table"], store["k_cache"], store["q_norm"], store["head_dim"])
    return _is_many(first) or (_is_one(first) and fits())
