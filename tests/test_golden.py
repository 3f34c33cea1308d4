"""Whole models against llama.cpp and an exact forward pass, for every block format and family."""

import functools
from typing import NamedTuple

import numpy as np
import pytest

from rocforge import LLM, Sampling
from rocforge.errors import ModelError
from tests.ops.rooms import make_room
from tests.paths import SHARED, needs_shared

pytestmark = needs_shared

GOLDEN = SHARED / "data" / "golden"
# Mixtures of experts are refused, with these words.
REFUSED = {
    "mixtral": "mixture of experts, which is not supported",
    "qwen3moe": "architecture 'qwen3moe' is not supported",
}

NAMES = sorted(path.stem for path in GOLDEN.glob("*.gguf"))
DENSE = [name for name in NAMES if not any(kind in name for kind in REFUSED)]
FLOAT = [name for name in DENSE if name.endswith(("-F32", "-F16"))]

# All tokens in one step, and one token in each: decoding has kernels of its own.
CHUNKS = {"prefill": 64, "decode": 1}

# What the project promises. llama.cpp too multiplies in 8 bits, so its distance from the exact logits is
# what the formats cost; in F32 and F16 there is nothing that would have to be lost.
MAX_RATIO, MAX_MEAN_RATIO, MAX_FLOAT_ERROR = 1.25, 1.05, 0.002


class Errors(NamedTuple):
    """Relative L2 distances from the exact logits."""

    ours: float
    llama_cpp: float

    @property
    def ratio(self):
        return self.ours / self.llama_cpp


def golden(name):
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


@pytest.fixture(params=["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request):
    return request.param


@functools.cache
def errors(name, way, device):
    data = golden(name)
    exact = data["exact"].astype(np.float64)
    with LLM(GOLDEN / f"{name}.gguf", device=device, context=64, sequences=1, chunk_tokens=CHUNKS[way]) as llm:
        logits = llm.logits(data["tokens"])
    assert logits.shape == exact.shape and logits.dtype == np.float32
    return Errors(*(float(np.linalg.norm(l - exact) / np.linalg.norm(exact)) for l in (logits, data["logits"])))


def test_every_file_has_its_test():
    assert len(DENSE) >= 19 and len(FLOAT) >= 4, NAMES
    assert all(any(kind in name for name in NAMES) for kind in REFUSED)


@pytest.mark.parametrize("way", CHUNKS)
@pytest.mark.parametrize("name", DENSE)
def test_as_near_to_exact_as_llama_cpp(name, way, device):
    assert errors(name, way, device).ratio <= MAX_RATIO, errors(name, way, device)


@pytest.mark.parametrize("way", CHUNKS)
@pytest.mark.parametrize("name", FLOAT)
def test_float_files_are_exact(name, way, device):
    assert errors(name, way, device).ours <= MAX_FLOAT_ERROR, errors(name, way, device)


@pytest.mark.parametrize("name", FLOAT)
def test_greedy_tokens_are_those_of_llama_cpp(name, device):
    data = golden(name)
    with LLM(GOLDEN / f"{name}.gguf", device=device, context=64) as llm:
        sampling = Sampling(temperature=0, ignore_eos=True, max_tokens=len(data["greedy"]))
        assert llm.generate(data["tokens"].tolist(), sampling).tokens == data["greedy"].tolist()


@pytest.mark.parametrize("name", ["tiny-llama-Q4_K_M", "tiny-llama-Q6_K", "tiny-llama-Q8_0", "tiny-llama-F16", "tiny-qwen2-Q4_K_M"])
def test_a_prompt_by_the_kernels_of_gpus(name, monkeypatch):
    """In Triton's interpreter: weights in float16 cost no accuracy that the formats have."""
    make_room("triton")
    from rocforge.kernels.backend import LAUNCHERS, Backend

    monkeypatch.setattr("rocforge.llm.open_backend", lambda device: (Backend("cpu"), LAUNCHERS))
    found = errors.__wrapped__(name, "prefill", "cpu")
    assert found.ratio <= MAX_RATIO and (name not in FLOAT or found.ours <= MAX_FLOAT_ERROR), found


def test_geometric_mean_of_the_ratios(figures, device):
    table = {name: [errors(name, way, device) for way in CHUNKS] for name in DENSE}
    means = np.exp(np.log([[e.ratio for e in row] for row in table.values()]).mean(0))
    title = f"relative error of the logits on the {device}: llama.cpp's; ours and the ratio, prefill and decode"
    for name, row in table.items():
        ours = "   ".join(f"{e.ours:.2e} {e.ratio:.3f}" for e in row)
        figures(title, f"{name:20} {row[0].llama_cpp:.2e}   {ours}")
    figures(title, f"{'geometric mean':41} " + "".join(f"{mean:.3f}            " for mean in means).rstrip())
    assert max(means) <= MAX_MEAN_RATIO


@pytest.mark.parametrize("name", [name for name in NAMES if name not in DENSE])
def test_mixtures_of_experts_are_refused(name):
    message = next(words for kind, words in REFUSED.items() if kind in name)
    with pytest.raises(ModelError, match=message):
        LLM(GOLDEN / f"{name}.gguf")
