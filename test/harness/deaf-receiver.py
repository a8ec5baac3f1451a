"""A receiver with a 4 KiB receive buffer that never reads. Each connection gets FIN after 0.3 s. With the argument
`reset` it is closed right after that: since unread bytes are left, the kernel sends RST. Prints its port; ends when its
standard input does."""
import socket
import sys
import threading
import time

FIN_AFTER_SECONDS = 0.3
kept = []


def deaf(connection):
    time.sleep(FIN_AFTER_SECONDS)
    try:
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        pass
    if "reset" in sys.argv:
        connection.close()
    else:
        kept.append(connection)


def serve(listener):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=deaf, args=(connection,), daemon=True).start()


listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
listener.bind(("127.0.0.1", 0))
listener.listen(512)
print(listener.getsockname()[1], flush=True)
threading.Thread(target=serve, args=(listener,), daemon=True).start()
sys.stdin.read()
