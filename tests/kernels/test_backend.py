"""What the GPU's backend puts around launches: the inputs before a step, ids after the draw. In Triton's interpreter."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is absent: Triton kernels run on its tensors")
pytest.importorskip("triton", reason="triton is absent: pip install triton")

import torch  # noqa: E402

from rocforge.cpu.sample import sample  # noqa: E402
from rocforge.kernels import launch  # noqa: E402
from rocforge.kernels.backend import Backend  # noqa: E402
from rocforge.kernels.gather import gather  # noqa: E402
from tests.ops.rooms import make_room  # noqa: E402


@pytest.fixture
def backend():
    make_room("triton")
    return Backend("cpu")


def test_a_program_begins_with_its_inputs_and_no_more_of_them(backend):
    arena = backend.empty(64)
    backend.clear(arena)
    inputs = backend.inputs(arena, 32).view(np.int32)
    x, out = torch.arange(12, dtype=torch.float32).view(4, 3), torch.zeros(2, 3)
    with backend.record(8) as program:
        gather(x, backend.view(arena, 0, (2,), "i32"), out)
    for rows in ((3, 1), (0, 2)):
        backend.ready()
        inputs[:] = [*rows, 7, 7, 7, 7, 7, 7]
        backend.run(program)
        assert np.array_equal(backend.to_host(out), x.numpy()[list(rows)])
    assert backend.view(arena, 0, (8,), "i32").tolist() == [0, 2, 0, 0, 0, 0, 0, 0]


def test_ids_are_those_of_the_cpu_whatever_was_drawn_before(backend):
    """Of rows of one number the same program is run again: with other parameters it gives what they say."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((3, 300)).astype(np.float32)
    on_device = torch.from_numpy(logits.copy())
    programs = set()
    for n, seed in ((3, 0), (1, 1), (3, 2)):
        uniform = np.random.default_rng(seed).random(n)
        parameters = [np.array(p[:n]) for p in ((0.0, 0.8, 1.2), (0, 40, 0), (1.0, 0.95, 0.9), (0.0, 0.05, 0.0))]
        expected = np.empty(n, np.int32)
        sample(logits[:n].copy(), *parameters, uniform, expected)
        assert backend.sample(on_device[:n], *parameters, uniform) == expected.tolist()
        programs.add(id(backend.sampling(on_device[:n])))
    assert len(programs) == 2


def test_triton_is_hashed_once_and_aside():
    triton_key = pytest.importorskip("triton.runtime.cache").triton_key
    launch.hashing().join()
    assert launch.hashing() is launch.hashing() and triton_key.cache_info().currsize == 1
