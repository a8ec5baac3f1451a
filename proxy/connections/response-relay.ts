import { type BodyReader, ChunkedBody, chunkHeader, LengthBody, UntilClose } from "../http/body.ts";
import { bindsConnection, continueHead, expectsContinue, responseHead } from "../http/fields.ts";
import { type Head, type ResponseHead, ResponseHeadParser } from "../http/head.ts";
import type { AccessRecord } from "../outcome/access-record.ts";
import { countBound } from "../outcome/bounds.ts";
import type { Failure } from "../outcome/refusals.ts";
import type { Batch } from "../sockets/batch.ts";

/**
 * Limit of heads with a status of 1xx in front of one response. Servers send one or two (100, 103), or one in some
 * seconds while they work (102); Go's client accepts five.
 */
const MAX_INTERIM_HEADS = 16;

/**
 * State of a response after some bytes of it. Null: more bytes are needed. `broken`: its framing is invalid after its
 * head was forwarded. A failure: it cannot be forwarded, and nothing of it was.
 */
type ResponseState = null | "complete" | "broken" | Failure;

/** Questions of the relay to its exchange. */
interface ResponseContext {
  /** Whether the final head gets `Via`. */
  via(): boolean;
  /** Whether the client connection is closed after this response, as far as the request and the server say. */
  closes(): boolean;
}

/** The response of one exchange: reads it from the upstream, and adds what the client gets to a batch. */
export class ResponseRelay {
  readonly #request: Head;
  readonly #record: AccessRecord;
  readonly #context: ResponseContext;
  readonly #toClient: Batch;
  #parser = new ResponseHeadParser();
  #silent = true;
  #interimHeads = 0;
  #interimFields = 0;
  /** A 100 was forwarded. */
  #continued = false;
  #head: ResponseHead | null = null;
  #body: BodyReader | null = null;
  #chunked = false;
  /** The upstream sent a message that violates HTTP, even if it was repaired: its connection is not reused. */
  #faulty = false;
  #closes = false;

  constructor(request: Head, record: AccessRecord, toClient: Batch, context: ResponseContext) {
    this.#request = request;
    this.#record = record;
    this.#toClient = toClient;
    this.#context = context;
  }

  /** No byte of the response has arrived. */
  get silent(): boolean {
    return this.#silent;
  }

  /** The final head was forwarded: a failure can only be reported by a reset. */
  get begun(): boolean {
    return this.#head !== null;
  }

  /** The client connection is closed after this response. */
  get closes(): boolean {
    return this.#closes;
  }

  /** The response ends with the upstream connection. */
  get endsWithUpstream(): boolean {
    return this.#body instanceof UntilClose;
  }

  /** The upstream connection may serve another request, as far as the response says. */
  get keepsUpstream(): boolean {
    if (this.#faulty || this.endsWithUpstream || this.#body?.repaired) return false;
    return this.#head?.keepAlive === true;
  }

  /** The response authenticates the connection (NTLM, Negotiate). */
  get bindsConnection(): boolean {
    return this.#head !== null && bindsConnection(this.#head.headers);
  }

  /** Lines read so far, by which the work of one turn is bounded. */
  get lines(): number {
    return this.#interimFields + (this.#body?.lines ?? 0);
  }

  /** Reads bytes of the upstream. */
  feed(chunk: Buffer): ResponseState {
    this.#silent = false;
    let rest = chunk;
    while (this.#body === null) {
      if (rest.length === 0) return null;
      const parsed = this.#parser.feed(rest);
      if (parsed === null) return null;
      if ("error" in parsed) return this.#failure(`answered with broken HTTP: ${parsed.error}`);
      rest = parsed.rest;
      if (parsed.head.repaired) this.#faulty = true;
      const failure = parsed.head.status < 200 ? this.#takeInterim(parsed.head) : this.#takeFinal(parsed.head);
      if (failure !== null) return failure;
    }
    return this.#relay(this.#body, rest);
  }

  #failure(what: string): Failure {
    return { code: "bad-answer", reason: `${this.#record.target} ${what}` };
  }

  /**
   * Handles a head with a status of 1xx. One 100 goes to a client that waits for it. Every other one is dropped, since
   * clients take it for the answer (docs/adr/0015-interim-responses.md).
   */
  #takeInterim(head: ResponseHead): Failure | null {
    if (head.status === 101) return this.#failure("switched protocols without being asked");
    if (++this.#interimHeads > MAX_INTERIM_HEADS) {
      countBound("response-head");
      return this.#failure(`sent more than ${MAX_INTERIM_HEADS} heads before its answer`);
    }
    this.#interimFields += this.#parser.lines;
    this.#parser = new ResponseHeadParser();
    if (head.chunked || head.contentLength !== undefined) this.#faulty = true;
    if (head.status === 100 && !this.#continued && expectsContinue(this.#request)) {
      this.#continued = true;
      this.#toClient.add(continueHead(head.minor, this.#context.via()));
    }
    return null;
  }

  #takeFinal(head: ResponseHead): Failure | null {
    if (head.status === 407)
      return { ...this.#failure("answered with 407, which is for proxies"), receivedStatus: 407 };
    this.#head = head;
    const isHead = this.#request.method === "HEAD";
    const bodiless = isHead || head.status === 204 || head.status === 304;
    // RFC 9110 §8.6, RFC 9112 §6.1: a 204 has neither, and another reader may expect a body.
    if (head.status === 204 && (head.chunked || head.contentLength !== undefined)) this.#faulty = true;
    if (bodiless) this.#body = new LengthBody(0);
    else if (head.chunked) this.#body = new ChunkedBody("answer");
    else if (head.contentLength !== undefined) this.#body = new LengthBody(head.contentLength);
    else this.#body = new UntilClose();
    this.#chunked = head.chunked && this.#request.minor === 1 && (!bodiless || isHead);
    this.#closes = this.endsWithUpstream || this.#context.closes();
    const options = { chunked: this.#chunked, close: this.#closes, via: this.#context.via() };
    this.#toClient.add(responseHead(head, options));
    return null;
  }

  #relay(body: BodyReader, chunk: Buffer): ResponseState {
    if (body.done) {
      // Bytes that belong to no response: no later request may receive them.
      if (chunk.length > 0) this.#faulty = true;
      return "complete";
    }
    let rest: Buffer | null;
    try {
      rest = body.feed(chunk, this.#relayPayload);
    } catch {
      return "broken";
    }
    if (rest === null) return null;
    if (this.#chunked) this.#toClient.add("0\r\n\r\n");
    if (rest.length > 0) this.#faulty = true;
    return "complete";
  }

  readonly #relayPayload = (payload: Buffer): void => {
    this.#record.bytesDown += payload.length;
    if (this.#chunked) this.#toClient.add(chunkHeader(payload));
    this.#toClient.add(payload);
    if (this.#chunked) this.#toClient.add("\r\n");
  };
}
