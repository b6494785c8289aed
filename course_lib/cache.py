"""Where the course keeps what it can fetch or make again: models, and compiled programs."""

from __future__ import annotations

import os
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
