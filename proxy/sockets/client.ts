import type { Socket } from "node:net";
import { copyOut } from "./read-buffer.ts";

/** The owner of an accepted connection. All accepted connections share their handlers. */
export interface ClientOwner {
  /** Takes the reads of a socket with a buffer of its own (`bulk.ts`); false: reading must pause. Null: shared buffer. */
  readonly bulk: ((length: number) => boolean) | null;
  data(chunk: Buffer): void;
  /** The client half-closed. */
  end(): void;
  /** The socket has room again. */
  drained(): void;
  /** An error, whose close follows. */
  failed(error: NodeJS.ErrnoException): void;
  closed(): void;
}

type ClientSocket = Socket & { owner?: ClientOwner };

/** Receives data that an accepted socket read into the shared buffer, where Node allows that (`accept.ts`). */
export function onClientRead(this: Socket, length: number): boolean {
  const { owner } = this as ClientSocket;
  if (owner === undefined) return false;
  if (owner.bulk !== null) return owner.bulk(length);
  owner.data(copyOut(length));
  return true;
}

function onData(this: ClientSocket, chunk: Buffer): void {
  this.owner!.data(chunk);
}
function onEnd(this: ClientSocket): void {
  this.owner!.end();
}
function onDrain(this: ClientSocket): void {
  this.owner!.drained();
}
function onError(this: ClientSocket, error: NodeJS.ErrnoException): void {
  this.owner!.failed(error);
}
function onClose(this: ClientSocket): void {
  this.owner!.closed();
}

/** Gives an accepted socket its owner and starts to read. `sharedReads`: it reads by `onread` (`accept.ts`). */
export function own(socket: Socket, owner: ClientOwner, sharedReads: boolean): void {
  (socket as ClientSocket).owner = owner;
  socket.on("error", onError);
  if (sharedReads) socket.resume();
  else socket.on("data", onData);
  socket.on("end", onEnd);
  socket.on("drain", onDrain);
  socket.on("close", onClose);
}

/** Stops reading and gives bytes back, so that another reader gets them first. */
export function unread(socket: Socket, bytes: Buffer): void {
  socket.pause();
  socket.removeListener("data", onData);
  socket.unshift(bytes);
}

/** Takes an accepted socket from its owner: a TLS socket reads and closes it from now on. */
export function disown(socket: Socket): void {
  socket.removeListener("error", onError);
  // The TLS socket reports errors as well.
  socket.on("error", () => {});
  socket.removeListener("data", onData);
  socket.removeListener("end", onEnd);
  socket.removeListener("drain", onDrain);
  socket.removeListener("close", onClose);
}

/** The address of the peer of a socket. An IPv4 client of a dual-stack listener is shown with its IPv4 address. */
export function clientAddress({ remoteAddress = "" }: Socket): string {
  return remoteAddress.startsWith("::ffff:") && remoteAddress.includes(".") ? remoteAddress.slice(7) : remoteAddress;
}
