import { type BodyReader, ChunkedBody, chunkHeader, LengthBody } from "../http/body.ts";
import { requestHead } from "../http/fields.ts";
import type { Head } from "../http/head.ts";
import { Held } from "../http/held.ts";
import type { AccessRecord } from "../outcome/access-record.ts";
import type { Failure } from "../outcome/refusals.ts";
import type { AbsoluteTarget } from "../policy/target.ts";
import type { Batch } from "../sockets/batch.ts";

/** Limit of the client bytes that are held for the next request; then reading from the client pauses. */
const MAX_HELD_BYTES = 65_536;

/** Where a request goes next. */
export interface Onward {
  readonly absolute: AbsoluteTarget;
  /** The value of Max-Forwards for the upstream; null leaves the field as it is. */
  readonly forwards: number | null;
}

/** The path for the upstream. RFC 9112 §3.2.4: an OPTIONS without a path addresses the server itself. */
function pathOf({ method, target }: Head, { path }: AbsoluteTarget): string {
  return method === "OPTIONS" && path === "/" && !target.endsWith("/") ? "*" : path;
}

/** The request of one exchange: reads it from the client, and adds what the upstream gets to a batch. */
export class RequestRelay {
  readonly #head: Head;
  readonly #record: AccessRecord;
  readonly #toUpstream: Batch;
  readonly #body: BodyReader;
  /** Client bytes behind this request. */
  readonly #held = new Held();

  constructor(head: Head, record: AccessRecord, toUpstream: Batch) {
    this.#head = head;
    this.#record = record;
    this.#toUpstream = toUpstream;
    this.#body = head.chunked ? new ChunkedBody("request") : new LengthBody(head.contentLength ?? 0);
  }

  /** The body is complete: later bytes belong to the next request. */
  get done(): boolean {
    return this.#body.done;
  }

  /** Lines read so far, by which the work of one turn is bounded. */
  get lines(): number {
    return this.#body.lines;
  }

  /** Number of held bytes. */
  get held(): number {
    return this.#held.length;
  }

  /** No further bytes should be held. */
  get full(): boolean {
    return this.#held.length >= MAX_HELD_BYTES;
  }

  /** Relays the head. */
  begin({ absolute, forwards }: Onward, via: boolean): void {
    const path = pathOf(this.#head, absolute);
    this.#toUpstream.add(requestHead(this.#head, { path, authority: absolute.authority, via, forwards }));
  }

  /** Relays bytes of the body, and holds those behind it. A failure: the body is malformed. */
  feed(chunk: Buffer): Failure | null {
    if (this.#body.done) {
      this.hold(chunk);
      return null;
    }
    let rest: Buffer | null;
    try {
      rest = this.#body.feed(chunk, this.#relayPayload);
    } catch (error) {
      return { code: "bad-request", reason: (error as Error).message };
    }
    if (rest === null) return null;
    if (this.#head.chunked) this.#toUpstream.add("0\r\n\r\n");
    this.hold(rest);
    return null;
  }

  readonly #relayPayload = (payload: Buffer): void => {
    this.#record.bytesUp += payload.length;
    if (this.#head.chunked) this.#toUpstream.add(chunkHeader(payload));
    this.#toUpstream.add(payload);
    if (this.#head.chunked) this.#toUpstream.add("\r\n");
  };

  /** Keeps bytes for later. */
  hold(bytes: Buffer): void {
    this.#held.append(bytes);
  }

  /** The bytes behind this request, for the next one. */
  takeRest(): Buffer {
    return this.#held.take();
  }
}
