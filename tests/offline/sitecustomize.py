"""No network in this Python: look-ups of names, and connections to anything but this machine, raise OSError.

Python imports a `sitecustomize` that it finds on its path when it starts, so a process is cut off by having this folder
on its PYTHONPATH, and so are the processes that it starts. What leaves through an audit hook
(https://docs.python.org/3/library/audit_events.html) leaves through `socket` too, whoever imported it and however.
Libraries with sockets of their own in C (ZeroMQ, gRPC) are not covered; Jupyter talks to its kernels over ZeroMQ.
"""

import errno
import ipaddress
import socket
import sys

CONNECTIONS = {"socket.connect", "socket.sendto", "socket.sendmsg"}  # (socket, address)
LOOKUPS = {"socket.getaddrinfo", "socket.gethostbyname"}  # (host, …)
REVERSE_LOOKUPS = {"socket.gethostbyaddr", "socket.getnameinfo"}  # (host,) and (address,)


def _address(host):
    """The IP address that `host` spells out, or None if it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_this_machine(host):
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def _refuse(what):
    raise OSError(errno.ENETUNREACH, f"the network is off in lessons and tests: refused {what}")


def _hook(event, args):
    if event in CONNECTIONS:
        sock, address = args
        # sendmsg has no address on a socket that is connected already
        if sock.family in (socket.AF_INET, socket.AF_INET6) and address and not _is_this_machine(address[0]):
            _refuse(f"a connection to {address[0]} port {address[1]}")
    elif event in LOOKUPS:
        host = args[0].decode() if isinstance(args[0], bytes) else args[0]
        # without a host, or with an address in place of a name, nobody is asked
        if host and not _is_this_machine(host) and _address(host) is None:
            _refuse(f"the look-up of {host!r}")
    elif event in REVERSE_LOOKUPS:
        host = args[0][0] if event == "socket.getnameinfo" else args[0]
        if not _is_this_machine(host):
            _refuse(f"the look-up of {host!r}")


sys.addaudithook(_hook)
