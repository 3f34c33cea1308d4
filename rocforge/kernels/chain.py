"""The ops of a step one after the other; neighbours whose work one kernel can do are one launch. Computes nothing.

Of one token, whose launches take longer to begin and end than to compute:

    linear, rms_norm, linear ..    the first writes what the norm does but for its root, which the second makes (gemv_norm.py)
    linear, rope_store             (gemv_rope.py)
    rope_store, attention          where launches do not begin early (attention.py)
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rocforge.gguf.formats import Q8
from rocforge.kernels import gemv_norm, gemv_rope, target
from rocforge.kernels.attention import rope_attention
from rocforge.kernels.matmul import linear_of_root

# An op's kind and its launcher's keywords.
Bound = tuple[str, dict[str, Any]]


def launch_all(launchers: Mapping[str, Callable[..., None]], ops: Sequence[Bound]) -> None:
    """What `launchers`, by kind, do of one op after the other."""
    i, root = 0, None
    while i < len(ops):
        (kind, given), *after = ops[i : i + 3]
        kinds = [kind, *(kind for kind, _ in after)]
        if kinds == ["linear", "rms_norm", "linear"] and _leaves_root(given, after[0][1], after[1][1]):
            (weight,), norm = given["weights"], after[0][1]
            root = gemv_norm.linear_norm(
                given["x"], weight, given["bias"], given["residual"], given["out"], norm["weight"], norm["out"], norm["eps"], root
            )
            i += 2
        elif kinds[:2] == ["linear", "rope_store"] and _turns(given, after[0][1]):
            gemv_rope.linear_rope(given["x"], given["weights"], given["bias"], root, **after[0][1])
            i, root = i + 2, None
        elif kinds[:2] == ["rope_store", "attention"]:
            rope_attention(**{**given, **after[0][1]})
            i += 2
        elif root is not None:
            linear_of_root(**given, root=root)
            i, root = i + 1, None
        else:
            launchers[kind](**given)
            i += 1


def _is_one_token(linear: dict[str, Any]) -> bool:
    """Of a linear: whether it is of blocks, and launches are better fewer than with as many programs as there are places for."""
    x = linear["x"]
    return isinstance(x, Q8) and len(x.values) == 1 and target.current().backend in ("cuda", "interpreter")


def _leaves_root(first: dict[str, Any], norm: dict[str, Any], reader: dict[str, Any]) -> bool:
    if not (_is_one_token(first) and isinstance(norm["out"], Q8) and len(first["weights"]) == 1 and _is_one_token(reader)):
        return False
    passes = norm["x"].data_ptr() == first["out"].data_ptr() and norm["out"].values.data_ptr() == reader["x"].values.data_ptr()
    return passes and gemv_norm.fits(first["weights"][0])


def _turns(first: dict[str, Any], store: dict[str, Any]) -> bool:
    if not (_is_one_token(first) and first["residual"] is None and first["out"].shape == store["qkv"].shape):
        return False
    return gemv_rope.fits(first["weights"], store["table"], store["k_cache"], store["q_norm"], store["head_dim"])
