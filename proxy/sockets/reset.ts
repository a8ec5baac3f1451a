import type { Socket } from "node:net";

/**
 * Ends a connection abnormally: RST, at once, whatever is still unsent. Node's own `resetAndDestroy` fails with EINVAL
 * while a shutdown (FIN) is in flight, and then never emits `close` (libuv `uv_tcp_close_reset`). In that state all
 * bytes are with the kernel already, and a plain close adds nothing but the FIN that was asked for.
 */
export function reset(socket: Socket): void {
  if (socket.destroyed) return;
  const shuttingDown = socket.writableEnded && !socket.writableFinished && socket.writableLength === 0;
  if (shuttingDown) socket.destroy();
  else socket.resetAndDestroy();
}
