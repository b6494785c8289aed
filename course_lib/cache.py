"""Where the course keeps what it can fetch or make again: models, and compiled programs."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from pathlib import Path


def cache_folder() -> Path:
    """COURSE_CACHE where that is set, else the system's folder for caches. Created by whoever writes to it."""
    import platformdirs

    chosen = os.environ.get("COURSE_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else Path(platformdirs.user_cache_dir("loss-to-bert"))


def enable_compile_cache() -> None:
    """Let JAX keep compiled programs on disk, so that the second run of a lesson or a command compiles nothing.

    A folder that somebody has already chosen (JAX_COMPILATION_CACHE_DIR) stays.
    """
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@functools.cache
def compiled(function: Callable, static: str | tuple[str, ...], donate: tuple[str, ...] = ()) -> Callable:
    """`jax.jit(function)`, made once, with the arguments named in `static` fixed and those in `donate` given away.

    On a CPU, LLVM stops at its first level of optimisation. BERT's time goes into matrix products, which are compiled
    already: it runs as fast, and compiles in two thirds of the time. XLA's GPU compiler wants its own default.
    """
    import jax

    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else {}
    return jax.jit(function, static_argnames=static, donate_argnames=donate, compiler_options=options)


def hand_back_memory() -> None:
    """Give the memory that compiling took, some 400 MB, back to the system; glibc would keep it for later.

    Nothing happens where the C library is another one.
    """
    import ctypes

    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
