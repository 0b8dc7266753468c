"""What a process that stays does, whatever it serves: it listens, and it ends when it is told to."""

from __future__ import annotations

import asyncio
import os
import signal
import socket

BACKLOG = 2048
"""Connections that wait to be accepted; uvicorn's own."""


def stop_on_signals() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT; a second one ends the process at once. SIGHUP is ignored until a
    handler is there for it."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(130)
        stop.set()

    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return stop


def listener(host: str, port: int) -> socket.socket:
    """A socket that listens already: who is told the port may connect. Raises OSError."""
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
        found.listen(BACKLOG)
    except OSError:
        found.close()
        raise
    found.setblocking(False)
    return found
