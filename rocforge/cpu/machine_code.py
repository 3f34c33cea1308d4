"""Functions as machine code, compiled once for this host and kept as object files. Knows no kernel.

Numba's own cache takes a quarter of a second to begin, for it registers all that a compilation might need; an object file
needs LLVM's linker only. So Numba compiles, and what it made is kept here: one file a function, the object behind the
function's name and a digest of both.
"""

import functools
import hashlib
import logging
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import FunctionType

import numba
from llvmlite import binding
from numba import _helperlib, cfunc, njit, types

from rocforge.cpu.tier import tier
from rocforge.cpu.tuning import sources

log = logging.getLogger(__name__)

# Numba settles on the machine that it compiles for when the first function is decorated. A forced tier
# is compiled for a machine that has no more than that; the generic one for this host, whose halves and
# fused products it takes from the compiler.
if os.environ.get("ROCFORGE_CPU_ISA") == "avx2":
    numba.config.CPU_NAME, numba.config.CPU_FEATURES = "haswell", ""

# What every function below a kernel is compiled with: inlined, no exceptions, no fastmath
# (the order of a sum is part of the contract), and without the wrappers that Python would call it
# by, which are a seventh of all compiling.
inline = njit(forceinline=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)

_compiling = threading.RLock()
# What was loaded or compiled: its code is there as long as its engine is.
_alive: list = []


def address_of(function: Callable, n_words: int) -> int:
    """The address of a Python function of `n_words` int64 that returns nothing, compiled or found in the cache."""
    with _compiling:
        path = cache_directory() / _file_name(function, n_words)
        if (found := _read(path)) is not None:
            return _load(*found)
        log.debug("compiling %s", function.__qualname__)
        made = compiled(function, n_words)
        _alive.append(made)
        _, _, (code, *_) = made._library.serialize_using_object_code()  # what Numba's own cache keeps
        _write(path, made.native_name, code)
        return made.address


def compiled(function: Callable, n_words: int):
    """Numba's cfunc of it, which is kept nowhere."""
    return cfunc(types.void(*[types.int64] * n_words), error_model="numpy")(function)


def is_kept(function: Callable, n_words: int) -> bool:
    """Whether `address_of` would find it in the cache."""
    return (cache_directory() / _file_name(function, n_words)).exists()


@functools.cache
def cache_directory() -> Path:
    """Where this room's machine code is kept: named after everything that it depends on.

    A function is compiled with what it calls, from whatever file: so the directory's name holds a hash of all sources
    of this room, of the versions and of the host's CPU. Raises OSError where nothing can be written.
    """
    versions = sources(), numba.__version__, binding.llvm_version_info
    host = binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten(), tier()
    digest = hashlib.sha256(repr((versions, host)).encode())
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    user = os.getuid() if hasattr(os, "getuid") else 0
    temporary = Path(tempfile.gettempdir()) / f"rocforge-{user}"
    for base in (home / "rocforge", temporary):
        directory = base / "cpu" / digest.hexdigest()[:16]
        try:
            base.mkdir(parents=True, exist_ok=True, mode=0o700)
            if base is temporary and base.stat().st_uid != user:
                raise PermissionError("it belongs to another user, whose code would be run")
            directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=directory):
                return directory
        except OSError as e:
            log.info("no kernel cache in %s: %s", directory, e)
    raise OSError("no directory to keep compiled kernels in: set XDG_CACHE_HOME to a writable one")


def _file_name(function: FunctionType, n_words: int) -> str:
    """By where the function stands and what it encloses; of a file that the directory's name does not cover, by its state."""
    file = Path(function.__code__.co_filename)
    parts = [function.__module__, function.__qualname__, function.__code__.co_firstlineno, n_words]
    parts += [getattr(cell.cell_contents, "__qualname__", repr(cell.cell_contents)) for cell in function.__closure__ or ()]
    if file.parent != Path(__file__).parent:
        parts += [file, file.stat().st_mtime_ns if file.exists() else os.getpid()]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24] + ".o"


# ---- files: digest (32 bytes) | length of the name (2) | name | object


def _read(path: Path) -> tuple[str, bytes] | None:
    """The function's name and its object; None where there is no file, or not a whole one."""
    try:
        held = path.read_bytes()
    except OSError:
        return None
    digest, rest = held[:32], held[32:]
    if hashlib.sha256(rest).digest() != digest:
        log.warning("%s is damaged, and made anew", path)
        return None
    stop = 2 + int.from_bytes(rest[:2], "little")
    return rest[2:stop].decode(), rest[stop:]


def _write(path: Path, name: str, code: bytes) -> None:
    """Into place in one step: another process finds all of it or nothing."""
    rest = len(name).to_bytes(2, "little") + name.encode() + code
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(hashlib.sha256(rest).digest() + rest)
        os.replace(file.name, path)
    except OSError as error:
        log.info("%s cannot be kept: %s", path, error)


def _load(name: str, code: bytes) -> int:
    """The address of a function of an object."""
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), _machine())
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _alive.append(engine)
    return engine.get_function_address(name)


@functools.cache
def _machine() -> binding.TargetMachine:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    for name, address in _helperlib.c_helpers.items():  # what Numba's code may call, where it can raise
        binding.add_symbol(f"numba_{name}", address)
    return binding.Target.from_default_triple().create_target_machine()
