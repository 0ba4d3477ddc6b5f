"""The socket that accepts connections: opened with one clear error, and closed without losing one."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import socket
import struct

from retrainer.errors import ResourceError, UserError

log = logging.getLogger(__name__)

BACKLOG = 2048
# Linux, asm-generic/socket.h; Python's socket module does not name it.
_SO_ATTACH_FILTER = 26
_SYN, _SYN_ACK = 0x02, 0x12
_HIGHEST_PORT = 65535


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    :param port: 0 for any that is free.
    :raises ResourceError: the port is taken, or not allowed.
    :raises UserError: the host is none of this machine.
    """
    where = f"{host}:{port}"
    if not 0 <= port <= _HIGHEST_PORT:
        raise UserError(f"no port: {port}", hint=f"0 to {_HIGHEST_PORT}")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else "not a host's name"
        raise UserError(f"the host is not known: {reason}", where=host) from None
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _refused(error, where) from None
    listener.setblocking(False)
    return listener


def _refused(error: OSError, where: str) -> ResourceError:
    hints = {
        errno.EADDRINUSE: "another process serves there; choose another --port, or 0 for any",
        errno.EACCES: "ports below 1024 need a privilege; choose a higher --port",
        errno.EADDRNOTAVAIL: "that is no address of this machine; 0.0.0.0 takes all that there are",
    }
    reason = os.strerror(error.errno) if error.errno else str(error)
    return ResourceError(f"cannot listen: {reason}", where=where, hint=hints.get(error.errno or 0))


def url_of(listener: socket.socket) -> str:
    """Where clients on this machine reach it."""
    host, port = listener.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def refuse_new(listener: socket.socket) -> bool:
    """Let no further client begin to connect, while those that began can finish.

    Closing a listening socket resets the connections that the kernel completed and nobody accepted yet; their clients
    may have sent requests on them. So first a filter (Linux, *Documentation/networking/filter.rst*) drops the packets
    that open a connection, SYN without ACK. What is complete is accepted, then the socket is closed. A client whose
    SYN was dropped sends it again a second later, and is refused then: it never was connected.

    :return: whether the kernel took the filter.
    """
    # The 13th byte of a TCP header holds its flags. Load it, keep SYN and ACK, drop the packet if only SYN is left.
    program = ((0x30, 0, 0, 13), (0x54, 0, 0, _SYN_ACK), (0x15, 0, 1, _SYN), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    try:
        descriptor = struct.pack("HP", len(program), ctypes.addressof(code))
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, descriptor)
    except OSError as error:
        log.debug("the kernel takes no filter for new connections: %s", error)
        return False
    return True
