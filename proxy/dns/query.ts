import { randomInt } from "node:crypto";
import { createSocket, type Socket as UdpSocket } from "node:dgram";
import { connect, type Socket as TcpSocket } from "node:net";
import { type QuestionType, type Rcode, type Records, readResponse, TYPE_A, TYPE_AAAA, writeQuery } from "./message.ts";
import type { DnsServer, DnsServers } from "./servers.ts";

/**
 * Rounds in which every server gets the query: a packet may be lost. The turns of each round are twice as long as
 * before.
 */
const ROUNDS = 3;
/** The length of all rounds, in turns of the first one. */
const ROUND_UNITS = 2 ** ROUNDS - 1;
/** Limit of a turn of the first round, in milliseconds, for long time limits. */
const MAX_TURN_MS = 500;
/**
 * Time in milliseconds that the first family with addresses waits for the other one: Resolution Delay (RFC 8305 §3).
 */
const RESOLUTION_DELAY_MS = 50;
/** Limit in milliseconds for the other one after that, for long time limits: half an answer is cached no longer. */
const MAX_LATE_MS = 5000;
/** Failures per server after which it gets no immediate retry. */
const MAX_FAILURES = 2;
const IDS = 65_536;

/** Reason why a question has no addresses. `NOFILES`: this process has no file descriptor or memory left. */
export type ReplyError = Rcode | "TIMEOUT" | "CONNREFUSED" | "NOFILES" | "BADNAME";
/** The outcome of one question. */
export type Reply = Records | { error: ReplyError };

interface Question {
  readonly query: Buffer;
  /** Index of the next turn. */
  turn: number;
  timer: NodeJS.Timeout | undefined;
  /** Servers that have not answered yet. */
  readonly pending: Set<DnsServer>;
  readonly tcp: Map<DnsServer, TcpSocket>;
  /** Servers whose failure has been counted: once for each question, however often they get it. */
  readonly counted: Set<DnsServer>;
  failures: number;
  reply: Reply | null;
}

/** Events of a query. A reply is null while there is none. */
interface QueryEvents {
  /** One family has addresses, and the other one is late. Called once at most, and before `done`. */
  half(six: Reply | null, four: Reply | null): void;
  /** Both questions have a reply. Called once. */
  done(six: Reply, four: Reply): void;
}

interface Peer {
  readonly socket: UdpSocket;
  connected: boolean;
  readonly unsent: Buffer[];
}

const NO_RESOURCES: ReadonlySet<string | undefined> = new Set(["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"]);

function errorOf(error: unknown): ReplyError {
  return NO_RESOURCES.has((error as NodeJS.ErrnoException).code) ? "NOFILES" : "CONNREFUSED";
}

function makeQuestion(id: number, host: string, type: QuestionType): Question {
  const query = writeQuery(id, host, type);
  const reply = query === null ? ({ error: "BADNAME" } as const) : null;
  const servers = { pending: new Set<DnsServer>(), counted: new Set<DnsServer>() };
  const lists = { ...servers, tcp: new Map<DnsServer, TcpSocket>() };
  return { query: query ?? Buffer.alloc(0), turn: 0, timer: undefined, ...lists, failures: 0, reply };
}

/**
 * The AAAA and A queries for one name, by UDP, and by TCP when the answer is truncated. Each name has its own sockets,
 * connected to the servers. No answer for another name can disturb it, and only the server can answer, to a random port
 * and id. Servers are tried in turn, and an answer to an earlier turn still counts.
 */
export class DnsQuery {
  readonly #servers: DnsServers;
  readonly #events: QueryEvents;
  readonly #questions: readonly [Question, Question];
  readonly #peers = new Map<DnsServer, Peer>();
  #plan: readonly DnsServer[] = [];
  #turnMs = 0;
  /** Time limit (monotonic ms). */
  readonly #until: number;
  #deadline: NodeJS.Timeout | undefined;
  /** Ends the wait of the first family for the other one. */
  #delay: NodeJS.Timeout | undefined;
  #over = false;

  /** Starts the queries. Reports nothing before this returns, and nothing after the query was cancelled. */
  constructor(servers: DnsServers, host: string, timeoutMs: number, events: QueryEvents) {
    this.#servers = servers;
    this.#events = events;
    const id = randomInt(IDS);
    this.#questions = [makeQuestion(id, host, TYPE_AAAA), makeQuestion((id + 1) % IDS, host, TYPE_A)];
    this.#until = performance.now() + timeoutMs;
    this.#deadline = setTimeout(() => this.#expire(), timeoutMs);
    process.nextTick(() => this.#start(timeoutMs));
  }

  /** Closes everything. */
  cancel(): void {
    this.#over = true;
    clearTimeout(this.#deadline);
    clearTimeout(this.#delay);
    for (const question of this.#questions) this.#release(question);
    for (const { socket } of this.#peers.values()) socket.close();
    this.#peers.clear();
  }

  /** Ends without the replies that are still missing. Not before this query has called `half`. */
  end(): void {
    for (const question of this.#questions) question.reply ??= { error: "TIMEOUT" };
    this.#finishIfDone();
  }

  #start(timeoutMs: number): void {
    if (this.#over) return;
    try {
      const servers = this.#servers.inOrder(performance.now());
      this.#plan = Array.from({ length: ROUNDS }, () => servers).flat();
      this.#turnMs = Math.min(MAX_TURN_MS, timeoutMs / (servers.length * ROUND_UNITS));
    } catch (error) {
      for (const question of this.#questions) question.reply ??= { error: errorOf(error) };
    }
    for (const question of this.#questions) if (question.reply === null) this.#ask(question);
    this.#finishIfDone();
  }

  /** Sends a question to the next server. */
  #ask(question: Question): void {
    const round = Math.floor((question.turn * ROUNDS) / this.#plan.length);
    const server = this.#plan[question.turn++]!;
    clearTimeout(question.timer);
    if (question.turn < this.#plan.length) {
      question.timer = setTimeout(
        () => {
          this.#count(question, server);
          this.#ask(question);
        },
        this.#turnMs * 2 ** round,
      );
    }
    question.pending.add(server);
    if (question.tcp.has(server)) return;
    const peer = this.#peers.get(server) ?? this.#open(server);
    if (peer.connected) this.#send(server, peer, question.query);
    else peer.unsent.push(question.query);
  }

  #open(server: DnsServer): Peer {
    const { host, port, family } = server;
    // The address of a resolver needs no lookup.
    const lookup = (address: string, _: unknown, found: (error: null, address: string) => void) => found(null, address);
    const socket = createSocket({ type: family === 6 ? "udp6" : "udp4", lookup: lookup as never });
    const peer: Peer = { socket, connected: false, unsent: [] };
    this.#peers.set(server, peer);
    socket.on("message", (message) => this.#onMessage(server, message));
    socket.on("error", (error) => this.#lose(server, peer, error));
    socket.once("connect", () => {
      // It may have been closed in the meantime.
      if (this.#peers.get(server) !== peer) return;
      peer.connected = true;
      for (const query of peer.unsent.splice(0)) this.#send(server, peer, query);
    });
    // It fails in this turn of the event loop or in the next one: listeners are attached, and the caller has returned.
    process.nextTick(() => {
      if (this.#peers.get(server) !== peer) return;
      try {
        socket.connect(port, host);
      } catch (error) {
        this.#lose(server, peer, error);
      }
    });
    return peer;
  }

  #send(server: DnsServer, peer: Peer, query: Buffer): void {
    // "Port unreachable" for the first packet is reported as the error of the second one, in this callback only.
    peer.socket.send(query, (error) => {
      if (error !== null) this.#lose(server, peer, error);
    });
  }

  /** The socket failed, and with it every query that used it. */
  #lose(server: DnsServer, peer: Peer, error: unknown): void {
    if (this.#peers.get(server) !== peer) return;
    this.#peers.delete(server);
    peer.socket.close();
    for (const question of this.#questions) {
      if (question.pending.has(server) && !question.tcp.has(server)) this.#fail(question, server, errorOf(error));
    }
  }

  #onMessage(server: DnsServer, message: Buffer): void {
    if (this.#over) return;
    for (const question of this.#questions) {
      if (question.reply === null) this.#read(question, server, message, false);
    }
  }

  /** Reads a message as the answer to a question; false when it is not an answer. */
  #read(question: Question, server: DnsServer, message: Buffer, whole: boolean): boolean {
    const response = readResponse(message, question.query);
    if (response === null) return false;
    if (response === "truncated") {
      if (whole) this.#fail(question, server, "BADRESP");
      else if (!question.tcp.has(server)) this.#askByTcp(question, server);
    } else if ("error" in response && response.error !== "NXDOMAIN") this.#fail(question, server, response.error);
    else {
      this.#servers.answered(server);
      this.#conclude(question, response);
    }
    return true;
  }

  #askByTcp(question: Question, server: DnsServer): void {
    const socket = connect({ host: server.host, port: server.port, noDelay: true });
    question.tcp.set(server, socket);
    const length = Buffer.alloc(2);
    length.writeUInt16BE(question.query.length);
    socket.write(Buffer.concat([length, question.query]));
    let chunks: Buffer[] = [];
    let have = 0;
    /** Closes it; false when it was already closed. */
    const close = (): boolean => {
      socket.destroy();
      return question.tcp.get(server) === socket && question.tcp.delete(server);
    };
    const fail = (error: ReplyError) => {
      if (close()) this.#fail(question, server, error);
    };
    socket.on("error", (error) => fail(errorOf(error)));
    socket.on("close", () => fail("BADRESP"));
    socket.on("data", (chunk: Buffer) => {
      chunks.push(chunk);
      have += chunk.length;
      if (have < 2) return;
      if (chunks[0]!.length < 2) chunks = [Buffer.concat(chunks)];
      const end = 2 + chunks[0]!.readUInt16BE(0);
      if (have < end) return;
      const message = Buffer.concat(chunks, have).subarray(2, end);
      // Closed before the message is read: after a failure the same server may get another query.
      if (close() && !this.#read(question, server, message, true)) this.#fail(question, server, "BADRESP");
    });
  }

  /** A server did not answer or answered with an error: the next one is tried. After enough failures, only the slower servers are waited for. */
  #fail(question: Question, server: DnsServer, error: ReplyError): void {
    if (question.reply !== null || !question.pending.delete(server)) return;
    // Without a descriptor or memory the fault is on this side.
    if (error !== "NOFILES") this.#count(question, server);
    question.failures++;
    const isCurrent = this.#plan[question.turn - 1] === server;
    const more = question.turn < this.#plan.length && question.failures < (MAX_FAILURES * this.#plan.length) / ROUNDS;
    if (isCurrent && more) this.#ask(question);
    else if (question.pending.size === 0) this.#conclude(question, { error });
  }

  /** Counts a failure of a server. */
  #count(question: Question, server: DnsServer): void {
    if (question.counted.has(server)) return;
    question.counted.add(server);
    this.#servers.failed(server, performance.now());
  }

  #conclude(question: Question, reply: Reply): void {
    question.reply = reply;
    this.#release(question);
    if ("addresses" in reply && reply.addresses.length > 0) {
      this.#delay ??= setTimeout(() => this.#continueWithHalf(), RESOLUTION_DELAY_MS);
    }
    this.#finishIfDone();
  }

  #release(question: Question): void {
    clearTimeout(question.timer);
    const sockets = [...question.tcp.values()];
    question.tcp.clear();
    for (const socket of sockets) socket.destroy();
  }

  #expire(): void {
    for (const question of this.#questions) {
      if (question.reply !== null) continue;
      for (const server of question.pending) this.#count(question, server);
    }
    this.end();
  }

  /** One family is late: the other one is used without it. */
  #continueWithHalf(): void {
    clearTimeout(this.#deadline);
    // Negative, if the event loop was blocked for a while. Node would then write a warning to stderr.
    const left = Math.max(0, this.#until - performance.now());
    this.#deadline = setTimeout(() => this.#expire(), Math.min(MAX_LATE_MS, left));
    this.#events.half(...this.#replies());
  }

  #replies(): [six: Reply | null, four: Reply | null] {
    const [six, four] = this.#questions;
    return [six.reply, four.reply];
  }

  #finishIfDone(): void {
    const [six, four] = this.#replies();
    if (this.#over || six === null || four === null) return;
    this.cancel();
    this.#events.done(six, four);
  }
}
