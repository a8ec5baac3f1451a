import { readSync } from "node:fs";
import { Socket, type TcpNetConnectOpts } from "node:net";
import { READ_BUFFER } from "./read-buffer.ts";

/** The current owner of an upstream connection: a tunnel, or one exchange of plain HTTP after another. */
export interface UpstreamOwner {
  /** Handles `length` bytes in its read buffer ({@link READ_BUFFER} at first). False: stop reading. */
  upstreamRead(length: number): boolean;
  /** Handles the last `length` bytes of a broken connection, in {@link READ_BUFFER}. Without it they are discarded. */
  upstreamUnread?(length: number): void;
  upstreamEnd(): void;
  upstreamDrained(): void;
  upstreamError(error: NodeJS.ErrnoException): void;
  upstreamClosed(): void;
}

/** An upstream connection. Its owner may change; all upstream connections share their handlers. */
export type UpstreamSocket = Socket & { owner?: UpstreamOwner | undefined };

/** Read options of an upstream connection. It gets its owner when it connects, before any data can arrive. */
export const UPSTREAM_ONREAD: NonNullable<TcpNetConnectOpts["onread"]> = {
  buffer: READ_BUFFER,
  callback(this: unknown, length: number): boolean {
    const socket = this as UpstreamSocket;
    if (socket.owner !== undefined) return socket.owner.upstreamRead(length);
    // Bytes of an idle upstream answer no request.
    socket.destroy();
    return false;
  },
} as NonNullable<TcpNetConnectOpts["onread"]>;

function onEnd(this: UpstreamSocket): void {
  this.owner?.upstreamEnd();
}
function onDrain(this: UpstreamSocket): void {
  this.owner?.upstreamDrained();
}
function onError(this: UpstreamSocket, error: NodeJS.ErrnoException): void {
  this.owner?.upstreamError(error);
}
function onClose(this: UpstreamSocket): void {
  this.owner?.upstreamClosed();
}

/** The file descriptor of a socket's handle. It is not public, so it is checked before use. */
type Open = Socket & { _handle?: { fd?: number } | null };
/** Limit of the reads of {@link passUnread} (1 MiB). */
const MAX_UNREAD_READS = 16;

/**
 * Passes the bytes that the kernel has received on a broken connection to its owner. A receiver that refuses an upload
 * answers, closes, and resets the connection when more of the upload arrives. Its answer is then still to be read.
 */
function passUnread(socket: UpstreamSocket): void {
  const fd = (socket as Open)._handle?.fd;
  if (fd === undefined || fd < 0) return;
  for (let reads = 0; reads < MAX_UNREAD_READS && socket.owner?.upstreamUnread !== undefined; reads++) {
    let length: number;
    try {
      length = readSync(fd, READ_BUFFER);
    } catch {
      // EAGAIN: everything is read. ECONNRESET: nothing was there.
      return;
    }
    if (length === 0) return;
    socket.owner.upstreamUnread(length);
  }
}

/** Replaces `_destroy`: Node.js destroys a socket when a write fails, whatever is still to be read. */
function destroy(
  this: UpstreamSocket,
  error: NodeJS.ErrnoException | null,
  done: (error?: Error | null) => void,
): void {
  if (error?.syscall === "write") passUnread(this);
  Socket.prototype._destroy.call(this, error, done);
}

/** Attaches the permanent handlers to a new connection. */
export function adopt(socket: UpstreamSocket): void {
  socket._destroy = destroy;
  socket.on("end", onEnd);
  socket.on("drain", onDrain);
  socket.on("error", onError);
  socket.on("close", onClose);
}
