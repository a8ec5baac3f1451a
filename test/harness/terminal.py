"""Runs a command on a pseudo-terminal: terminal.py COLUMNS INTERRUPT COMMAND...

Writes everything that the terminal gets to stdout, and the exit status to stderr. It sends Ctrl-C once the output contains
INTERRUPT, unless that is empty.
"""

import fcntl
import os
import pty
import struct
import sys
import termios

columns, interrupt, command = int(sys.argv[1]), sys.argv[2].encode(), sys.argv[3:]
pid, terminal = pty.fork()
if pid == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    os.execvp(command[0], command)
seen = b""
while True:
    try:
        part = os.read(terminal, 65536)
    except OSError:  # EIO: the last process closed the terminal.
        break
    if not part:
        break
    sys.stdout.buffer.write(part)
    seen += part
    if interrupt and interrupt in seen:
        interrupt = b""
        os.write(terminal, b"\x03")
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
sys.stderr.write(str(status))
