import { CellReader } from "./world.ts";

/** One request that a client sent, as far as it is needed to read the answer. */
export interface Asked {
  /** The number in its marks; 0 for a malformed request. */
  number: number;
  method: string;
  /** The number of its receiver. */
  receiver: number;
  expectsContinue: boolean;
  /** False: any answer of 200 to 299 breaks the policy or the authentication. */
  permitted: boolean;
}

/** Answers of the proxy to a connection that it did not accept: they have no access record. */
const NOT_ACCEPTED = /^HTTP\/1\.1 503 egress-unavailable: too many connections/;
const MAX_HEAD_BYTES = 400_000;

/**
 * Reads what the proxy sends on one client connection: answers in the order of the requests, then maybe a tunnel. Checks
 * that each answer is well-formed, and has marks of its own request or receiver only.
 */
export class AnswerReader {
  readonly #asked: readonly Asked[];
  readonly #violation: (category: string, detail: string) => void;
  #state: "head" | "length" | "size" | "chunk" | "trailer" | "close" | "tunnel" = "head";
  #head = "";
  #left = 0;
  #line = "";
  #continued = 0;
  #cells = new CellReader();
  /** Final answers whose head came. */
  answered = 0;
  /** Complete final answers. An answer whose body ends with the connection is not counted. */
  completed = 0;
  /** Octets of the last body, or of the tunnel. */
  bytes = 0;
  /** The status line of the last answer. */
  status = "";
  /** Whether the last answer leaves the connection open. */
  keepAlive = true;
  notAccepted = false;

  constructor(asked: readonly Asked[], violation: (category: string, detail: string) => void) {
    this.#asked = asked;
    this.#violation = violation;
  }

  get tunnel(): boolean {
    return this.#state === "tunnel";
  }

  /** Whether FIN may come now without cutting an answer. */
  get whole(): boolean {
    return this.#state === "close" || this.#state === "tunnel" || (this.#state === "head" && this.#head === "");
  }

  feed(chunk: Buffer): void {
    this.#cells.feed(chunk, this.#check);
    let at = 0;
    while (at < chunk.length) at = this.#take(chunk, at);
  }

  readonly #check = (kind: "i" | "t", found: number): void => {
    // A chunk may have the end of one answer and the start of the next one.
    const first = Math.max(0, this.answered - 1);
    const around = this.tunnel ? this.#asked.slice(-1) : this.#asked.slice(first);
    const own = around.some((one) => (kind === "i" ? one.number === found : one.receiver === found));
    if (!own) {
      const whose = kind === "i" ? `request ${found} (connection ${Math.floor(found / 8)})` : `receiver ${found}`;
      this.#violation("foreign-bytes", `bytes of ${whose}`);
    }
  };

  /** Returns the index of the first byte that was not read. */
  #take(chunk: Buffer, at: number): number {
    switch (this.#state) {
      case "tunnel":
      case "close":
        this.bytes += chunk.length - at;
        return chunk.length;
      case "length":
      case "chunk": {
        const size = Math.min(this.#left, chunk.length - at);
        this.#left -= size;
        this.bytes += size;
        if (this.#left === 0) {
          if (this.#state === "length") this.#complete();
          else this.#state = "size";
        }
        return at + size;
      }
      default: {
        const lf = chunk.indexOf(10, at);
        const end = lf === -1 ? chunk.length : lf + 1;
        const text = chunk.toString("latin1", at, end);
        if (this.#state === "head") this.#takeHead(text);
        else this.#takeLine(text);
        return end;
      }
    }
  }

  #takeLine(text: string): void {
    this.#line += text;
    if (!this.#line.endsWith("\n")) return;
    const line = this.#line.slice(0, -2);
    this.#line = "";
    if (this.#state === "trailer") {
      if (line === "") this.#complete();
      return;
    }
    // An empty line ends the data of each chunk.
    if (line === "") return;
    this.#left = Number.parseInt(line, 16);
    if (!/^[0-9a-f]+$/i.test(line)) this.#violation("broken-answer", `a chunk size is ${JSON.stringify(line)}`);
    this.#state = this.#left === 0 ? "trailer" : "chunk";
  }

  #takeHead(text: string): void {
    this.#head += text;
    if (this.#head.length > MAX_HEAD_BYTES) this.#violation("broken-answer", "a head has no end");
    if (!this.#head.endsWith("\r\n\r\n")) return;
    const head = this.#head;
    this.#head = "";
    const [line = "", ...fields] = head.split("\r\n");
    const match = /^HTTP\/1\.1 (\d\d\d) /.exec(line);
    if (match === null) {
      this.#violation("broken-answer", `the status line is ${JSON.stringify(line.slice(0, 80))}`);
      return;
    }
    const status = Number(match[1]);
    const asked = this.#asked[this.answered];
    if (status < 200) {
      this.#continued++;
      if (status !== 100 || asked?.expectsContinue !== true || this.#continued > 1) {
        this.#violation("informational", `${status} (number ${this.#continued})`);
      }
      return;
    }
    this.#continued = 0;
    this.answered++;
    this.bytes = 0;
    this.status = line;
    this.notAccepted = NOT_ACCEPTED.test(line);
    if (asked === undefined) {
      if (!this.notAccepted) this.#violation("unasked-answer", line);
      this.#state = "close";
      return;
    }
    if (status < 300 && !asked.permitted) this.#violation("served-forbidden", line);
    if (head.includes("FORGED")) this.#violation("forged", fields.find((field) => field.includes("FORGED")) ?? line);
    if (status === 407 && asked.permitted) this.#violation("forged", line);
    this.#frame(status, asked, new Map(fields.map(splitField)));
  }

  #frame(status: number, asked: Asked, fields: ReadonlyMap<string, string>): void {
    this.keepAlive = !/close/i.test(fields.get("connection") ?? "");
    if (asked.method === "CONNECT" && status < 300) {
      this.#state = "tunnel";
      return;
    }
    const length = fields.get("content-length");
    if (asked.method === "HEAD" || status === 204 || status === 304) this.#complete();
    else if (fields.get("transfer-encoding") === "chunked") this.#state = "size";
    else if (length === undefined) this.#state = "close";
    else {
      this.#left = Number(length);
      this.#state = "length";
      if (this.#left === 0) this.#complete();
    }
  }

  #complete(): void {
    this.completed++;
    this.#state = "head";
  }
}

function splitField(field: string): [string, string] {
  const colon = field.indexOf(":");
  return [field.slice(0, Math.max(0, colon)).toLowerCase(), field.slice(colon + 1).trim()];
}
