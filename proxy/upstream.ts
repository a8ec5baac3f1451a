import type { Socket, TcpNetConnectOpts } from "node:net";

/** Whom an upstream connection of plain HTTP answers at the moment. */
export interface UpstreamOwner {
  upstreamData(chunk: Buffer): void;
  upstreamEnd(): void;
  upstreamBroken(): void;
  upstreamDrained(): void;
}

/** An upstream connection of plain HTTP: it changes its owner from request to request, its handlers stay. */
export type UpstreamSocket = Socket & { owner?: UpstreamOwner | undefined };

const READ_BUFFER_BYTES = 65_536;
/** One for all upstreams of plain HTTP: owners get copies. */
const readBuffer = Buffer.allocUnsafeSlow(READ_BUFFER_BYTES);

/** How an upstream connection of plain HTTP reads. */
export const EXCHANGE_ONREAD: NonNullable<TcpNetConnectOpts["onread"]> = {
  buffer: readBuffer,
  callback(this: unknown, length: number): boolean {
    const socket = this as UpstreamSocket;
    if (socket.owner === undefined) {
      // Whatever an idle upstream sends, it is no answer to a question.
      socket.destroy();
      return false;
    }
    socket.owner.upstreamData(Buffer.from(readBuffer.subarray(0, length)));
    return true;
  },
} as NonNullable<TcpNetConnectOpts["onread"]>;

function onEnd(this: UpstreamSocket): void {
  this.owner?.upstreamEnd();
}
function onBroken(this: UpstreamSocket): void {
  this.owner?.upstreamBroken();
}
function onDrain(this: UpstreamSocket): void {
  this.owner?.upstreamDrained();
}

/** Gives a fresh connection the handlers that it keeps for life. */
export function adopt(socket: UpstreamSocket): void {
  socket.on("error", onBroken);
  socket.on("end", onEnd);
  socket.on("close", onBroken);
  socket.on("drain", onDrain);
}
