import { createSocket } from "node:dgram";
import { once } from "node:events";
import { type AddressInfo, createServer, type Socket } from "node:net";
import { parseAddress } from "../../proxy/policy/cidr.ts";

/** The answer of the server to one question. */
export type DnsReply =
  /** `alias`: the name is a CNAME for this one, which has the addresses; the TTL of the alias may be another. */
  | { addresses: string[]; ttl?: number; alias?: { name: string; ttl: number } }
  | { rcode: keyof typeof RCODES }
  /** No answer at all. */
  | "silent"
  /** Truncated over UDP; over TCP these addresses. */
  | { truncated: string[] }
  /** Truncated over UDP; over TCP the length of an answer and its first bytes. */
  | "stalled"
  /** Truncated over UDP and TCP. */
  | "truncated"
  /** These raw messages, derived from the right answer. */
  | { addresses: string[]; forge: (answer: Buffer, query: Buffer) => Buffer[] };

const RCODES = { FORMERR: 1, SERVFAIL: 2, NXDOMAIN: 3, NOTIMP: 4, REFUSED: 5 } as const;
const TYPES: Readonly<Record<number, "A" | "AAAA">> = { 1: "A", 28: "AAAA" };

const SOA_SECONDS = 3600;
/** Points back to the name of the question (RFC 1035 §4.1.4). */
const ASKED_NAME = Buffer.from([0xc0, 0x0c]);

function nameBytes(name: string): Buffer {
  const labels = name.split(".").map((label) => Buffer.concat([Buffer.of(label.length), Buffer.from(label)]));
  return Buffer.concat([...labels, Buffer.of(0)]);
}

function resourceRecord(owner: Buffer, type: number, ttl: number, data: Buffer): Buffer {
  const fixed = Buffer.alloc(10);
  fixed.writeUInt16BE(type, 0);
  fixed.writeUInt16BE(1, 2);
  fixed.writeUInt32BE(ttl, 4);
  fixed.writeUInt16BE(data.length, 8);
  return Buffer.concat([owner, fixed, data]);
}

/** Authority of NXDOMAIN: it requests to be cached for an hour (RFC 2308 §3). */
function soa(): Buffer {
  const numbers = Buffer.alloc(20);
  for (let i = 0; i < 5; i++) numbers.writeUInt32BE(SOA_SECONDS, i * 4);
  const data = Buffer.concat([nameBytes("ns.test"), nameBytes("admin.test"), numbers]);
  return resourceRecord(nameBytes("test"), 6, SOA_SECONDS, data);
}

function addressBytes(text: string): Buffer {
  const { family, words } = parseAddress(text)!;
  const bytes = Buffer.alloc(16);
  for (const [i, word] of words.entries()) bytes.writeUInt32BE(word, i * 4);
  if (family === 6) return bytes;
  // Parsed as IPv4, but sent as written.
  if (text.includes(":")) bytes.writeUInt16BE(0xffff, 10);
  return text.includes(":") ? bytes : bytes.subarray(12);
}

function readQuestion(query: Buffer): { name: string; type: "A" | "AAAA" | "other"; end: number } {
  const labels: string[] = [];
  let at = 12;
  for (let length = query[at]!; length > 0; length = query[at]!) {
    labels.push(query.toString("latin1", at + 1, at + 1 + length));
    at += 1 + length;
  }
  const type = TYPES[query.readUInt16BE(at + 1)] ?? "other";
  return { name: labels.join(".").toLowerCase(), type, end: at + 5 };
}

interface Sections {
  flags?: number;
  answers?: readonly Buffer[];
  authority?: readonly Buffer[];
}

function response(query: Buffer, end: number, { flags = 0, answers = [], authority = [] }: Sections): Buffer {
  const header = Buffer.from(query.subarray(0, 12));
  header.writeUInt16BE(0x8180 | flags, 2);
  header.writeUInt16BE(1, 4);
  header.writeUInt16BE(answers.length, 6);
  header.writeUInt16BE(authority.length, 8);
  header.writeUInt16BE(0, 10);
  return Buffer.concat([header, query.subarray(12, end), ...answers, ...authority]);
}

function answersOf(type: string, addresses: readonly string[], ttl: number, alias?: { name: string; ttl: number }) {
  const wanted = addresses.filter((text) => text.includes(":") === (type === "AAAA"));
  const owner = alias === undefined ? ASKED_NAME : nameBytes(alias.name);
  const records = wanted.map((text) => resourceRecord(owner, type === "A" ? 1 : 28, ttl, addressBytes(text)));
  if (alias === undefined) return records;
  return [resourceRecord(ASKED_NAME, 5, alias.ttl, nameBytes(alias.name)), ...records];
}

/**
 * A DNS server, UDP and TCP, that answers from `zone` (a promise delays the answer) and records every question.
 * `listen`: default a free port of loopback.
 */
export async function startDns(
  zone: (name: string, type: string, nth: number) => DnsReply | Promise<DnsReply>,
  listen = { host: "127.0.0.1", port: 0 },
) {
  const queries: { name: string; type: string; transport: "udp" | "tcp" }[] = [];
  const asked = new Map<string, number>();
  /** The messages to send; a stalling one is truncated. */
  const answer = async (query: Buffer, transport: "udp" | "tcp"): Promise<readonly Buffer[] | "stalled"> => {
    const { name, type, end } = readQuestion(query);
    const nth = (asked.get(`${name} ${type}`) ?? 0) + 1;
    asked.set(`${name} ${type}`, nth);
    queries.push({ name, type, transport });
    const reply = await zone(name, type, nth);
    if (reply === "silent") return [];
    const again = [response(query, end, { flags: 0x0200 })];
    if (reply === "truncated") return again;
    if (reply === "stalled") return transport === "udp" ? again : "stalled";
    if ("rcode" in reply) return [response(query, end, { flags: RCODES[reply.rcode], authority: [soa()] })];
    if ("truncated" in reply) {
      return transport === "udp" ? again : [response(query, end, { answers: answersOf(type, reply.truncated, 60) })];
    }
    if ("forge" in reply) {
      return reply.forge(response(query, end, { answers: answersOf(type, reply.addresses, 60) }), query);
    }
    return [response(query, end, { answers: answersOf(type, reply.addresses, reply.ttl ?? 60, reply.alias) })];
  };
  const open = new Set<Socket>();
  const tcp = createServer((socket) => {
    let pending = Buffer.alloc(0);
    open.add(socket);
    socket.on("close", () => open.delete(socket));
    socket.on("error", () => socket.destroy());
    socket.on("data", async (chunk) => {
      pending = Buffer.concat([pending, chunk]);
      while (pending.length > 2 && pending.length >= 2 + pending.readUInt16BE(0)) {
        const length = pending.readUInt16BE(0);
        const query = pending.subarray(2, 2 + length);
        pending = pending.subarray(2 + length);
        const messages = await answer(query, "tcp");
        if (messages === "stalled") {
          socket.write(Buffer.concat([Buffer.of(0xff, 0xff), query.subarray(0, 4)]));
          continue;
        }
        for (const bytes of messages) {
          const prefix = Buffer.alloc(2);
          prefix.writeUInt16BE(bytes.length);
          socket.write(Buffer.concat([prefix, bytes]));
        }
      }
    });
  });
  // TCP first: its ports are the scarce ones, and any UDP port is very likely free.
  tcp.listen(listen);
  await once(tcp, "listening");
  const { port } = tcp.address() as AddressInfo;
  const udp = createSocket("udp4");
  udp.on("message", async (query, from) => {
    const messages = await answer(query, "udp");
    if (messages === "stalled") return;
    // Its socket may be closed by now: the answer is late.
    for (const bytes of messages) if (!closed) udp.send(bytes, from.port, from.address);
  });
  udp.bind(port, listen.host);
  await once(udp, "listening").catch((error: unknown) => {
    tcp.close();
    throw error;
  });
  let closed = false;
  const close = async () => {
    closed = true;
    udp.close();
    for (const socket of open) socket.destroy();
    await new Promise((resolve) => tcp.close(resolve));
  };
  return { address: `${listen.host}:${port}`, queries, close };
}
