"""`--target GFX`: an AMD target that need not be here. Compiles nothing itself."""

from typing import Any

from rocforge.errors import DeviceError, RequestError


def target_named(name: str) -> Any:
    """The `kernels.target.Target` that kernels are compiled for. Raises RequestError where triton is absent or only
    interprets, DeviceError for a target that is unknown."""
    try:
        import triton
    except ImportError:
        raise RequestError("--target asks the GPU kernels, which need triton: pip install torch triton") from None
    if triton.knobs.runtime.interpret:
        raise RequestError("TRITON_INTERPRET is set: the interpreter compiles nothing and has tiles of its own; unset it")
    return known(name)


def known(name: str) -> Any:
    """The same, whatever triton can do with it. Raises DeviceError for a target that is unknown."""
    from rocforge.kernels.target import AMD

    if name not in AMD:
        raise DeviceError(f"--target {name} is unknown; known are {' '.join(AMD)}")
    return AMD[name]
