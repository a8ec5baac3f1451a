import type { Socket } from "node:net";

/**
 * Ends a connection abnormally with RST, immediately, and drops unsent bytes. Node's own `resetAndDestroy` fails with
 * EINVAL while a shutdown (FIN) is in flight, and then never emits `close` (libuv `uv_tcp_close_reset`). In that state
 * the kernel has all bytes already, and a plain close only adds the requested FIN. `raw`: the TCP socket of a TLS socket,
 * which cannot be reset itself.
 */
export function reset(socket: Socket & { raw?: Socket }): void {
  if (socket.destroyed) return;
  const shuttingDown = socket.writableEnded && !socket.writableFinished && socket.writableLength === 0;
  if (shuttingDown) socket.destroy();
  else (socket.raw ?? socket).resetAndDestroy();
}
