"""Receivers that Node cannot be: a receive buffer of 4 KiB, and an accept queue that is full.

Arguments: a seed, then KIND ADDRESS PORT for each receiver. Ends when its standard input ends.
"""

import heapq
import itertools
import random
import selectors
import socket
import struct
import sys
import time

# The kernel doubles it: 4 KiB.
RECEIVE_BUFFER = 2048
RESET_ON_CLOSE = struct.pack("ii", 1, 0)

rng = random.Random(int(sys.argv[1]))
selector = selectors.DefaultSelector()
order = itertools.count()
due = []
# Kept open: a listener that is forgotten is closed.
silent = []


def later(seconds, action):
    heapq.heappush(due, (time.monotonic() + seconds, next(order), action))


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    connection.close()


def fin_then_reset(connection, pause):
    """Sends FIN, then RST: at once, or after a pause."""
    try:
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        connection.close()
        return
    if pause == 0:
        reset(connection)
    else:
        later(pause, lambda: reset(connection))


def accept(kind, listener):
    try:
        connection, _ = listener.accept()
    except OSError:
        return
    if kind == "fin-rst-4k":
        pause = rng.choice([0, 0, 0.0005, 0.01])
        later(rng.choice([0, 0.02, 0.1, 0.3]), lambda: fin_then_reset(connection, pause))
    else:
        end = connection.close if rng.random() < 0.5 else lambda: reset(connection)
        later(rng.uniform(0.2, 3), end)


arguments = sys.argv[2:]
for kind, address, port in zip(arguments[0::3], arguments[1::3], arguments[2::3]):
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    listener.bind((address, int(port)))
    if kind == "unanswered":
        # Nothing is accepted: after one or two connections the kernel drops every SYN.
        listener.listen(0)
        silent.append(listener)
        continue
    listener.listen(1024)
    listener.setblocking(False)
    selector.register(listener, selectors.EVENT_READ, (kind, listener))
selector.register(sys.stdin, selectors.EVENT_READ, None)
print("listening", flush=True)

while True:
    wait = max(0, due[0][0] - time.monotonic()) if due else None
    for key, _ in selector.select(wait):
        if key.data is None:
            if not sys.stdin.buffer.read1(1024):
                sys.exit(0)
        else:
            accept(*key.data)
    while due and due[0][0] <= time.monotonic():
        heapq.heappop(due)[2]()
