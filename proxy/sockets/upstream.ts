import type { Socket, TcpNetConnectOpts } from "node:net";
import { READ_BUFFER } from "./read-buffer.ts";

/** Whom an upstream connection answers at the moment: a tunnel, or one exchange of plain HTTP after another. */
export interface UpstreamOwner {
  /** `length` bytes stand where it reads into ({@link READ_BUFFER} at first). False: stop reading. */
  upstreamRead(length: number): boolean;
  upstreamEnd(): void;
  upstreamDrained(): void;
  upstreamError(error: NodeJS.ErrnoException): void;
  upstreamClosed(): void;
}

/** An upstream connection: its owner may change, its handlers are shared by all. */
export type UpstreamSocket = Socket & { owner?: UpstreamOwner | undefined };

/** How an upstream connection reads. It gets its owner when it connects, before any data can come. */
export const UPSTREAM_ONREAD: NonNullable<TcpNetConnectOpts["onread"]> = {
  buffer: READ_BUFFER,
  callback(this: unknown, length: number): boolean {
    const socket = this as UpstreamSocket;
    if (socket.owner !== undefined) return socket.owner.upstreamRead(length);
    // Whatever an idle upstream sends, it is no answer to a question.
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

/** Gives a fresh connection the handlers that it keeps for life. */
export function adopt(socket: UpstreamSocket): void {
  socket.on("end", onEnd);
  socket.on("drain", onDrain);
  socket.on("error", onError);
  socket.on("close", onClose);
}
