import type { ServerResponse } from "node:http";
import { type AccessRecord, formatRecord } from "../outcome/access-record.ts";
import { countBound } from "../outcome/bounds.ts";

/** Limit of concurrent readers: a few people. Each gets every record as text. */
const MAX_READERS = 4;
/** Limit of records that a reader gets in a second: a person cannot read more, and the data path has the CPU. */
const MAX_LINES = 100;
/** Limit of the bytes that wait for a slow reader, besides the buffers of the kernel. One record may exceed it. */
const MAX_WAITING_BYTES = 65_536;
/** Interval at which readers may get further records, and the number of dropped ones is reported, in milliseconds. */
const TICK_MS = 1000;
/** A comment every 15 s, so that nothing between reader and proxy closes an idle connection. */
const HEARTBEAT_TICKS = 15;
/** A reader that takes nothing for a minute is gone: its place becomes free. */
const STALL_TICKS = 60;

interface Reader {
  response: ServerResponse;
  /** Records in this second. */
  lines: number;
  /** Records that were dropped since the last report. */
  dropped: number;
  /** Ticks since the connection took something, or had nothing to take. */
  stalled: number;
}

/**
 * Access records for people who watch, as server-sent events (HTML, section 9.2): a record is a message, and the event
 * `dropped` reports how many records a reader did not get.
 */
export class Decisions {
  /** Takes each record; null while there is no reader, so that a request costs one comparison. */
  tap: ((record: AccessRecord, ms: number) => void) | null = null;
  readonly #readers = new Set<Reader>();
  #ticks = 0;
  #timer: NodeJS.Timeout | undefined;

  get readers(): number {
    return this.#readers.size;
  }

  /** Whether another reader would be too many; counts it. */
  isFull(): boolean {
    if (this.#readers.size < MAX_READERS) return false;
    countBound("decision-readers");
    return true;
  }

  /** Sends all further records as the answer to a request. Resolves when the connection is closed. */
  stream(response: ServerResponse): Promise<void> {
    response.writeHead(200, {
      "content-type": "text/event-stream",
      "cache-control": "no-store",
      "x-content-type-options": "nosniff",
    });
    // HEAD, or closed in the meantime.
    if (response.req.method === "HEAD" || response.closed) {
      response.end();
      return Promise.resolve();
    }
    const reader: Reader = { response, lines: 0, dropped: 0, stalled: 0 };
    this.#readers.add(reader);
    this.tap ??= (record, ms) => this.#send(record, ms);
    this.#timer ??= setInterval(() => this.#tick(), TICK_MS);
    // The time after which a browser connects again.
    this.#write(reader, "retry: 3000\n\n");
    return new Promise((resolve) => {
      response.once("close", () => {
        this.#forget(reader);
        resolve();
      });
    });
  }

  #forget(reader: Reader): void {
    this.#readers.delete(reader);
    if (this.#readers.size > 0) return;
    this.tap = null;
    this.#ticks = 0;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  #write(reader: Reader, text: string): void {
    reader.response.write(text, () => {
      reader.stalled = 0;
    });
  }

  #send(record: AccessRecord, ms: number): void {
    let message: string | undefined;
    for (const reader of this.#readers) {
      if (reader.lines >= MAX_LINES || reader.response.writableLength > MAX_WAITING_BYTES) {
        reader.dropped++;
        countBound("decision-lines");
        continue;
      }
      reader.lines++;
      // A line, with its end.
      message ??= `data: ${formatRecord(record, record.started + ms)}\n`;
      this.#write(reader, message);
    }
  }

  #tick(): void {
    this.#ticks++;
    for (const reader of this.#readers) {
      reader.lines = 0;
      const { response } = reader;
      if (response.writableLength === 0) reader.stalled = 0;
      else if (++reader.stalled > STALL_TICKS) response.destroy();
      if (response.writableLength > MAX_WAITING_BYTES) continue;
      if (reader.dropped > 0) {
        this.#write(reader, `event: dropped\ndata: ${reader.dropped}\n\n`);
        reader.dropped = 0;
      } else if (this.#ticks % HEARTBEAT_TICKS === 0) this.#write(reader, ": heartbeat\n\n");
    }
  }

  /** Ends all answers. */
  close(): void {
    for (const { response } of this.#readers) response.end();
  }
}
