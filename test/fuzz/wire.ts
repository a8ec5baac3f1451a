import { connect, type Socket } from "node:net";
import { AnswerReader, type Asked } from "./answers.ts";
import type { Rng } from "./seed.ts";

/**
 * How many access records a connection must have left, at least and at most. `unnamed`: further ones that may lack the
 * address of the client, since the kernel forgets it when the client resets the connection before the proxy accepts it.
 */
export interface Expected {
  min: number;
  max: number;
  unnamed: number;
}

/** How long a client waits for the FIN of the proxy after its own. */
const FAREWELL_MS = 2000;

/**
 * One hostile client connection. It counts the request heads that it sent completely, so that the number of access records
 * is known: exactly for one head, between two bounds where a reset races with several.
 */
export class Wire {
  readonly socket: Socket;
  readonly reader: AnswerReader;
  readonly asked: Asked[] = [];
  readonly #violation: (category: string, detail: string) => void;
  readonly #watchers = new Set<() => void>();
  /** Request heads whose last byte the kernel took. */
  #delivered = 0;
  #optional = false;
  #wasReset = false;
  /** The body of the last request is incomplete: the proxy need not answer it. */
  bodyOpen = false;
  connected = false;
  /** The proxy sent FIN. */
  ended = false;
  closed = false;
  error: NodeJS.ErrnoException | null = null;
  /** This side reset or closed the connection. */
  left = false;

  constructor(port: number, source: string, violation: (category: string, detail: string) => void) {
    this.#violation = violation;
    this.reader = new AnswerReader(this.asked, violation);
    const options = { host: "127.0.0.1", port, localAddress: source, allowHalfOpen: true, noDelay: true };
    const socket = connect({ ...options, autoSelectFamily: false });
    this.socket = socket;
    // Each pending write adds a listener.
    socket.setMaxListeners(0);
    socket.on("connect", () => {
      this.connected = true;
      this.#changed();
    });
    socket.on("data", (chunk: Buffer) => {
      this.reader.feed(chunk);
      this.#changed();
    });
    socket.on("end", () => {
      this.ended = true;
      this.#changed();
    });
    socket.on("error", (error) => {
      this.error = error;
    });
    socket.on("close", () => {
      this.closed = true;
      this.#changed();
    });
  }

  #changed(): void {
    for (const watcher of [...this.#watchers]) watcher();
  }

  get over(): boolean {
    return this.ended || this.closed;
  }

  /** Waits until the condition holds. False: it does not hold when the time is over or the connection is closed. */
  until(holds: () => boolean, ms: number): Promise<boolean> {
    return new Promise((resolve) => {
      const finish = (result: boolean) => {
        clearTimeout(timer);
        this.#watchers.delete(look);
        resolve(result);
      };
      const look = () => {
        if (holds()) finish(true);
        else if (this.closed) finish(false);
      };
      const timer = setTimeout(() => finish(holds()), ms);
      this.#watchers.add(look);
      look();
    });
  }

  pause(ms: number): Promise<boolean> {
    return this.until(() => this.closed, ms);
  }

  /** Writes bytes. True if the kernel took all of them. */
  write(bytes: Buffer | string): Promise<boolean> {
    const { socket } = this;
    if (!socket.writable) return Promise.resolve(false);
    return new Promise((resolve) => {
      // Node may not call back for a write that a reset interrupts.
      const closed = () => resolve(false);
      socket.once("close", closed);
      socket.write(typeof bytes === "string" ? Buffer.from(bytes, "latin1") : bytes, (error) => {
        socket.removeListener("close", closed);
        resolve(error === null || error === undefined);
      });
    });
  }

  /** Sends bytes that complete the heads of `asked`, in one write or in random pieces. */
  async send(bytes: Buffer | string, asked: readonly Asked[], pieces?: Rng, pauseMs = 0): Promise<boolean> {
    this.asked.push(...asked);
    const data = typeof bytes === "string" ? Buffer.from(bytes, "latin1") : bytes;
    let good = true;
    if (pieces === undefined) good = await this.write(data);
    else {
      for (let at = 0; good && at < data.length; ) {
        const size = pieces.size(Math.max(1, Math.min(data.length - at, 4096)));
        good = await this.write(data.subarray(at, at + size));
        at += size;
        if (good && at < data.length && (pauseMs > 0 || pieces.oneIn(4))) await this.pause(pieces.int(0, pauseMs));
      }
    }
    if (good) this.#delivered += asked.length;
    return good;
  }

  /** The proxy may treat the bytes that were sent as a request, but need not. */
  maybeAsked(asked: Asked): void {
    this.asked.push(asked);
    this.#optional = true;
  }

  end(): void {
    if (this.socket.writable) this.socket.end();
  }

  reset(): void {
    if (this.closed) return;
    this.left = true;
    this.#wasReset = true;
    this.socket.resetAndDestroy();
  }

  /** Ends the connection in a random way and waits until it is closed. */
  async leave(rng: Rng): Promise<void> {
    const how = rng.pick(["fin", "fin", "close", "reset"] as const);
    if (how === "fin") {
      this.end();
      if (!(await this.until(() => this.over, FAREWELL_MS))) this.left = !this.closed;
      this.end();
      this.socket.destroy();
    } else {
      this.left = !this.over;
      if (how === "reset") this.reset();
      else this.socket.destroy();
    }
    await this.until(() => this.closed, FAREWELL_MS);
  }

  /** Checks how the connection ended. Returns how many access records it must have. */
  expected(): Expected {
    const { reader, asked } = this;
    const heads = asked.length;
    if (reader.notAccepted) return { min: 0, max: heads, unnamed: 0 };
    const clean = this.ended && this.error === null && !this.left;
    const answered = Math.min(reader.answered, heads);
    const owed = !this.bodyOpen && !this.#optional;
    if (clean && owed && !reader.whole)
      this.#violation("cut-answer", `FIN in the middle of the answer "${reader.status}"`);
    if (clean && owed && answered < heads && (answered === 0 || reader.keepAlive)) {
      const last = answered === 0 ? "" : `; the last answer "${reader.status}" keeps the connection`;
      this.#violation("no-answer", `${answered} of ${heads} requests were answered before FIN${last}`);
    }
    const read = answered === 0 && this.#delivered > 0;
    const unnamed = read && this.#wasReset ? 1 : 0;
    const min = read && !this.#wasReset ? 1 : answered;
    // Before it sends FIN, the proxy answers each request that it read, except one with an incomplete body.
    const max = clean ? Math.min(heads, answered + (this.bodyOpen ? 1 : 0)) : heads;
    return { min, max: Math.max(min, max), unnamed };
  }
}
