import type { Socket } from "node:net";
import { openFileLimit, shareFiles } from "./descriptors.ts";

/** Below the idle time of common origins (nginx 75 s, Node 5 s), so that a reused connection is rarely a dying one. */
const IDLE_MS = 4000;
const MAX_IDLE_PER_KEY = 32;
/** Limit of the idle connections of all keys; lower with a low limit of open files. */
const MAX_IDLE = shareFiles(openFileLimit()).pooled;

interface Idle {
  socket: Socket;
  /** Start of the dial (monotonic ms): a proof of the source may come after it. */
  opened: number;
  /** The only client that may reuse it; absent: every client may. */
  owner?: object | undefined;
  since: number;
  drop: () => void;
}

/**
 * Idle upstream connections of plain HTTP, by host, port, address and source; the last one used is the first one
 * reused. The caller must have decided its request first. A connection with an owner (it carries the authentication of
 * one client, as NTLM does) is for that owner alone.
 */
export class Pool {
  readonly #idle = new Map<string, Idle[]>();
  #count = 0;

  /** A connection for `owner`, preferring those that belong to it. `bound`: it has an owner. */
  take(key: string, owner: object): { socket: Socket; opened: number; bound: boolean } | null {
    const list = this.#idle.get(key);
    if (list === undefined) return null;
    let entry: Idle | undefined;
    for (let i = list.length - 1; i >= 0; i--) {
      const one = list[i]!;
      if (one.owner === owner) {
        entry = one;
        break;
      }
      if (one.owner === undefined) entry ??= one;
    }
    if (entry === undefined) return null;
    entry.drop();
    const { socket, opened } = entry;
    return socket.destroyed ? this.take(key, owner) : { socket, opened, bound: entry.owner !== undefined };
  }

  /** Keeps a connection whose last response is complete, or closes it. `owner`: the only client that may reuse it. */
  put(key: string, socket: Socket, idle: { opened: number; now: number; owner?: object | undefined }): void {
    const list = this.#idle.get(key) ?? [];
    if (socket.destroyed || this.#count >= MAX_IDLE || list.length >= MAX_IDLE_PER_KEY) {
      socket.destroy();
      return;
    }
    const drop = () => {
      socket.removeListener("end", dead);
      socket.removeListener("close", dead);
      const at = list.indexOf(entry);
      if (at === -1) return;
      list.splice(at, 1);
      this.#count--;
    };
    const dead = () => {
      drop();
      socket.destroy();
    };
    const { opened, now, owner } = idle;
    const entry: Idle = { socket, opened, owner, since: now, drop };
    socket.on("end", dead);
    socket.on("close", dead);
    list.push(entry);
    this.#idle.set(key, list);
    this.#count++;
    socket.resume();
  }

  sweep(now: number): void {
    for (const [key, list] of this.#idle) {
      for (const entry of [...list]) {
        if (now - entry.since < IDLE_MS) continue;
        entry.drop();
        entry.socket.destroy();
      }
      // Not when it becomes empty: a list in use has no connection most of the time.
      if (list.length === 0) this.#idle.delete(key);
    }
  }

  close(): void {
    this.sweep(Number.POSITIVE_INFINITY);
  }
}
