"""TLS on sockets that are polled: handshakes nobody waits for, what OpenSSL holds back, an end that the peer is told.

Every function takes a plain socket as well: there it does what a plain socket needs.
"""

import contextlib
import socket
import ssl
from selectors import EVENT_READ, EVENT_WRITE

from broker.model.caller import Certificate
from broker.security.tls import peer_certificate

# What a non-blocking call raises when there is nothing to do just now.
NOT_NOW = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

_AT_ONCE = 64 << 10         # bytes given to OpenSSL at once


def wrap(sock: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Return the socket of a connection that was accepted, its handshake not begun. It takes over the descriptor."""
    sock.setblocking(False)
    return context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)


def shake(sock: ssl.SSLSocket) -> int:
    """Go on with a handshake. Return the event it waits for, 0 when it is done. Raise OSError when it failed."""
    try:
        sock.do_handshake()
    except ssl.SSLWantReadError:
        return EVENT_READ
    except ssl.SSLWantWriteError:
        return EVENT_WRITE
    return 0


def certificate_of(sock: socket.socket) -> Certificate | None:
    """Return the verified certificate that a peer has shown."""
    return peer_certificate(sock) if isinstance(sock, ssl.SSLSocket) else None


def has_more(sock: socket.socket) -> bool:
    """Whether bytes were taken from the kernel and not read yet: no poller speaks of them."""
    return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0


def receive(sock: socket.socket, size: int) -> bytes | None:
    """Return up to `size` bytes of a non-blocking socket, empty at the end; None when nothing is there yet."""
    try:
        return sock.recv(size)
    except NOT_NOW:
        return None
    except OSError:
        return b""


def send(sock: socket.socket, data: memoryview) -> int:
    """Send what a non-blocking socket takes; return how many bytes that is. Raise one of `NOT_NOW`, or OSError.

    OpenSSL says of what it was given only when all of it is out; in small pieces even a slow peer is seen to take something.
    """
    return sock.send(data[:_AT_ONCE] if isinstance(sock, ssl.SSLSocket) else data)


def finish(sock: socket.socket) -> None:
    """Tell the peer that nothing more comes; what it still sends may be read and is without meaning.

    Raise OSError when the peer is gone. Over TLS its close_notify is not waited for. Leaves the socket non-blocking.
    """
    sock.setblocking(False)
    if isinstance(sock, ssl.SSLSocket):
        with contextlib.suppress(OSError, ValueError):      # not now, no handshake yet, or told already
            sock.unwrap()
    sock.shutdown(socket.SHUT_WR)


def close(sock: socket.socket) -> None:
    """Close, with a word to the peer."""
    if isinstance(sock, ssl.SSLSocket):
        with contextlib.suppress(OSError):
            finish(sock)
    sock.close()


def cut(sock: socket.socket, how: int) -> None:
    """Shut a socket down that another thread may be using: its next read or write ends.

    `SSLSocket.shutdown` would have that thread go on without TLS.
    """
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, how)
