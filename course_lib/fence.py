"""A fence around a process, which it puts up itself and cannot take down: Landlock, which Linux offers every user.

How it works: https://docs.kernel.org/userspace-api/landlock.html. Files are fenced from Linux 5.13 on (cutting them
short by name: 6.2), TCP from 6.7 on, signals to processes outside from 6.12 on. Some systems switch Landlock off.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable
from pathlib import Path

# The numbers of the system calls are the same on every processor that JAX runs on.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
PR_SET_NO_NEW_PRIVS = 38
PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REFER, TRUNCATE = (1 << bit for bit in (0, 1, 2, 3, 13, 14))
CHANGE_FOLDERS = 0b1_1111_1111_0000  # bits 4 to 12: remove and make entries of each kind
READ = EXECUTE | READ_FILE | READ_DIR
FOR_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE  # the others make sense for folders only

# Programs, libraries and settings of the system, and what libraries ask about the machine.
SYSTEM = ("/bin", "/etc", "/lib", "/lib32", "/lib64", "/nix", "/opt", "/proc", "/sbin", "/sys", "/usr")
DEVICES = ("/dev/full", "/dev/null", "/dev/random", "/dev/urandom", "/dev/zero")


def version() -> int:
    """The version of Landlock's interface; 0 where there is none."""
    if sys.platform != "linux":
        return 0
    return max(0, ctypes.CDLL(None).syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1))


def put_up(read: Iterable[Path], names: Iterable[Path], write: Iterable[Path]) -> bool:
    """Leaves this process, and all that it will start, these files and folders, the system's and Python's own.

    What lies in `read` can be read and run, of what lies in `names` only the names are seen, in `write` all is allowed.
    There is no TCP, and no signal reaches a process that was there before. To be called while there is one thread.

    Returns False, and nothing has changed, where the system has no Landlock. Raises OSError where it fails.
    """
    abi = version()
    if not abi:
        return False
    handled = READ | WRITE_FILE | CHANGE_FOLDERS | (REFER if abi >= 2 else 0) | (TRUNCATE if abi >= 3 else 0)
    attributes = (ctypes.c_uint64 * 3)(handled, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)  # files, TCP, signals
    ruleset = _call(CREATE_RULESET, attributes, ctypes.c_size_t(24 if abi >= 6 else 16 if abi >= 4 else 8), 0)
    python = [sys.prefix, sys.base_prefix]
    rules = [(path, READ) for path in (*SYSTEM, *python, *read)] + [(path, READ_DIR) for path in names]
    rules += [(path, READ_FILE | WRITE_FILE) for path in DEVICES] + [(path, handled) for path in write]
    for path, allowed in rules:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:  # not every system has all of SYSTEM
            continue
        try:
            allowed &= handled if os.path.isdir(path) else FOR_FILES & handled
            rule = allowed.to_bytes(8, sys.byteorder) + place.to_bytes(4, sys.byteorder)
            _call(ADD_RULE, ruleset, PATH_BENEATH, rule, 0)
        finally:
            os.close(place)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))):
        raise OSError(ctypes.get_errno(), "prctl")
    _call(RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
    return True


def _call(number: int, *arguments) -> int:
    result = ctypes.CDLL(None, use_errno=True).syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"Landlock, system call {number}: {os.strerror(ctypes.get_errno())}")
    return result
