"""Where the course keeps what it can fetch or make again: models, and compiled programs."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from pathlib import Path

from course_lib import CourseError


def cache_folder() -> Path:
    """COURSE_CACHE where that is set, else the system's folder for caches. Created by whoever writes to it.

    Raises CourseError where it would be in the home folder of a user who has none.
    """
    import platformdirs

    chosen = os.environ.get("COURSE_CACHE")
    try:
        return Path(chosen).expanduser().absolute() if chosen else Path(platformdirs.user_cache_dir("loss-to-bert"))
    except RuntimeError:
        raise CourseError(
            "no home folder is known for this user; set HOME, or COURSE_CACHE to a folder that can be written to"
        ) from None


def enable_compile_cache() -> None:
    """Let JAX keep compiled programs on disk, so that the second run of a lesson or a command compiles nothing.

    A folder that somebody has already chosen (JAX_COMPILATION_CACHE_DIR) stays. Where there can be none (no home, or
    one that cannot be written to), each start compiles.
    """
    import jax

    if jax.config.jax_compilation_cache_dir is None and (folder := _compiled_folder()):
        jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    _keep_programs_whole_or_not_at_all()


def compile_cache_variables() -> dict[str, str]:
    """The same for processes that are yet to start, such as kernels: environment variables for them."""
    if not (folder := _compiled_folder()):
        return {}
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        # By itself JAX keeps only what took a second. The hundreds of small programs of a lesson take longer together.
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "TF_CPP_MIN_LOG_LEVEL": "3",  # see course_lib/__init__.py; kernels may import JAX first
    }


def _compiled_folder() -> Path | None:
    with contextlib.suppress(CourseError, OSError):
        folder = cache_folder() / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


@functools.cache
def _keep_programs_whole_or_not_at_all() -> None:
    """JAX writes a program straight under its final name and never again (up to 0.12 at least).

    Killed meanwhile, or on a full disk, it leaves half a program, and from then on each start warns of it and compiles
    anew. So write beside and rename; what cannot be written is compiled again next time, and nobody needs to know.
    """
    try:
        from jax._src.lru_cache import LRUCache
    except ImportError:  # another JAX than the pinned ones, as on Colab
        return
    put_in_place = LRUCache.put

    def put(cache, key: str, value: bytes) -> None:
        if cache.eviction_enabled or "://" in str(cache.path):  # a limit or a bucket, which only a user can have set
            return put_in_place(cache, key, value)
        final = Path(cache.path) / f"{key}-cache"
        part = final.with_name(f".{key}.{os.getpid()}.part")
        try:
            part.write_bytes(value)
            os.replace(part, final)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink()

    LRUCache.put = put


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
