import type { Socket, TcpNetConnectOpts } from "node:net";
import { READ_BUFFER } from "./read-buffer.ts";

/** The current owner of an upstream connection: a tunnel, or one exchange of plain HTTP after another. */
export interface UpstreamOwner {
  /** Handles `length` bytes in its read buffer ({@link READ_BUFFER} at first). False: stop reading. */
  upstreamRead(length: number): boolean;
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

/** Attaches the permanent handlers to a new connection. */
export function adopt(socket: UpstreamSocket): void {
  socket.on("end", onEnd);
  socket.on("drain", onDrain);
  socket.on("error", onError);
  socket.on("close", onClose);
}
