import { ResponseHeadParser } from "../http/head.ts";
import { countBound } from "../outcome/bounds.ts";
import type { Failure } from "../outcome/refusals.ts";

/** Limit in bytes of one response head of an upstream proxy. */
const MAX_HEAD_BYTES = 16_384;
/** Limit of interim responses (1xx, RFC 9110 §15.2) before the answer: proxies send none. */
const MAX_INTERIM = 8;

/** The upstream proxy has opened the tunnel. `rest`: the first bytes of the tunnel. */
interface Opened {
  rest: Buffer;
}

/** The request that an upstream proxy answers. */
export interface Asked {
  port: number;
  /** It has an IP address, not a name. */
  byAddress: boolean;
  /** It has credentials. */
  authorized: boolean;
}

const broken = (what: string): Failure => ({ code: "upstream-answer", reason: `the upstream proxy ${what}` });

/** The failure for a final status other than 2xx. Never the status itself: a 407 or 403 of the hop is none of ours. */
function refusalOf(status: number, { port, byAddress, authorized }: Asked): Failure {
  const receivedStatus = status;
  if (status === 407) {
    const why = authorized ? "to the credentials of this proxy" : "to this proxy, which has no credentials for it";
    return { code: "upstream-auth", reason: `the upstream proxy answered 407 ${why}`, receivedStatus };
  }
  const reason = `the upstream proxy answered ${status}`;
  if (status < 400 || status >= 500) return { code: "upstream-refused", reason, receivedStatus };
  const fix = byAddress ? `IP addresses, and to port ${port}` : `port ${port}`;
  return { code: "upstream-refused", reason: `${reason}; it must allow CONNECT to ${fix}`, receivedStatus };
}

/** Reads the answer to a CONNECT (RFC 9110 §9.3.6) from bytes as they come. Returns one result, and cannot be used again. */
export class HopAnswer {
  readonly #asked: Asked;
  #parser = new ResponseHeadParser(MAX_HEAD_BYTES);
  #interim = 0;

  constructor(asked: Asked) {
    this.#asked = asked;
  }

  /** Null: more bytes are needed. */
  feed(chunk: Buffer): null | Opened | Failure {
    for (let rest = chunk; ; ) {
      const parsed = this.#parser.feed(rest);
      if (parsed === null) return null;
      if ("error" in parsed) return broken(`answered with broken HTTP: ${parsed.error}`);
      const { status } = parsed.head;
      if (status >= 200 && status < 300) return { rest: parsed.rest };
      if (status >= 200 || status === 101) return refusalOf(status, this.#asked);
      if (++this.#interim > MAX_INTERIM) {
        countBound("response-head");
        return broken(`answered with more than ${MAX_INTERIM} interim responses`);
      }
      this.#parser = new ResponseHeadParser(MAX_HEAD_BYTES);
      rest = parsed.rest;
    }
  }

  /** The failure when the connection ends before the answer. */
  get ended(): Failure {
    return broken("closed the connection without an answer");
  }
}
