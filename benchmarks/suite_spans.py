"""Reports what JAX and the imports take in each process that imports this: a line for each span of time.

benchmarks/suite.py puts it at the end of its copy's tests/offline/sitecustomize.py, and reads the pipe SUITE_SPANS.
"""

import importlib.abc
import importlib.machinery
import os
import sys
import threading
import time

KIND_OF = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    "/jax/core/compile/backend_compile_duration": "compile",
    "/jax/compilation_cache/cache_retrieval_time_sec": "load",
}


def _test():
    name = os.environ.get("PYTEST_CURRENT_TEST") or os.environ.get("SUITE_TEST") or "between the tests"
    return name.partition("::")[0]


def _write(kind, seconds):
    line = f"{_test()}\t{kind}\t{time.time() - seconds}\t{time.time()}\n"
    os.write(sys.suite_spans, line.encode())  # short enough not to mix with what other processes write


def _tell(event, arguments):
    """Kernels get none of pytest's variables: tell them, in the environment that is made for them, in another."""
    if event == "subprocess.Popen" and isinstance(arguments[3], dict) and "SUITE_SPANS" in arguments[3]:
        arguments[3]["SUITE_TEST"] = _test()


class _Depth(threading.local):
    value = 0


class _Imports(importlib.abc.MetaPathFinder):
    """Times imports, each with all that it imports itself, and has JAX report once it is there."""

    depth = _Depth()

    def find_spec(self, name, path=None, target=None):
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(name, path, target)):
                break
        else:
            return None
        if isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            run = spec.loader.exec_module

            def timed(module):
                self.depth.value += 1
                started = time.time()
                try:
                    run(module)
                finally:
                    self.depth.value -= 1
                    if not self.depth.value:
                        _write("import", time.time() - started)
                if name == "jax" and hasattr(module, "monitoring"):  # tests have a jax that is broken, too
                    module.monitoring.register_event_duration_secs_listener(
                        lambda event, seconds, **_: event in KIND_OF and _write(KIND_OF[event], seconds)
                    )

            spec.loader.exec_module = timed
        return spec


if "SUITE_SPANS" in os.environ and not hasattr(sys, "suite_spans"):
    sys.suite_spans = os.open(os.environ["SUITE_SPANS"], os.O_WRONLY)
    _write("start", 0)
    sys.addaudithook(_tell)
    sys.meta_path.insert(0, _Imports())
