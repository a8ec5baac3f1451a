import { createSocket } from "node:dgram";
import { once } from "node:events";
import { createServer, type Socket } from "node:net";
import { parseAddress } from "../../proxy/policy/cidr.ts";
import { Rng } from "./seed.ts";
import { DNS, EMPTY_ADDRESSES, emptyAddress, type NameKind, receiverAddress } from "./world.ts";

/**
 * The DNS server of a fuzz run. The name of a question selects the answer: `r<receiver number>.<anything>.<kind>.test`.
 * Unlike `test/harness/dns.ts` it keeps no list of questions, since a run has some hundred thousand.
 */

const A = 1;
const CNAME = 5;
const AAAA = 28;
const TTL_SECONDS = 60;
/** Flags and response codes beside QR, RD and RA. */
const TC = 0x0200;
const NXDOMAIN = 3;
const SERVFAIL = 2;
/** Milliseconds until a late answer: some come after the proxy stopped waiting. */
const LATE_MS = 2500;
/** Names of `dns-rebind` whose number of questions is remembered. The oldest is forgotten first. */
const MAX_REBOUND = 5000;

interface Question {
  id: number;
  labels: string[];
  type: number;
  /** The question section as sent. */
  bytes: Buffer;
}

function readQuestion(query: Buffer): Question | null {
  const labels: string[] = [];
  let at = 12;
  for (;;) {
    const length = query[at];
    if (length === undefined || at + length + 5 > query.length) return null;
    if (length === 0) break;
    labels.push(query.toString("latin1", at + 1, at + 1 + length).toLowerCase());
    at += 1 + length;
  }
  return { id: query.readUInt16BE(0), labels, type: query.readUInt16BE(at + 1), bytes: query.subarray(12, at + 5) };
}

function nameBytes(name: string): Buffer {
  const labels = name.split(".").map((label) => Buffer.from(`${String.fromCharCode(label.length)}${label}`, "latin1"));
  return Buffer.concat([...labels, Buffer.of(0)]);
}

const ASKED_NAME = Buffer.of(0xc0, 0x0c);

function entry(owner: Buffer, type: number, data: Buffer, ttl = TTL_SECONDS): Buffer {
  const fixed = Buffer.alloc(10);
  fixed.writeUInt16BE(type, 0);
  fixed.writeUInt16BE(1, 2);
  fixed.writeUInt32BE(ttl, 4);
  fixed.writeUInt16BE(data.length, 8);
  return Buffer.concat([owner, fixed, data]);
}

/** The resource record of an address. Empty if the question is for the other family. */
function addressEntry(type: number, text: string, ttl?: number, owner: Buffer = ASKED_NAME): Buffer[] {
  const { family, words } = parseAddress(text)!;
  if ((type === A ? 4 : type === AAAA ? 6 : 0) !== family) return [];
  const bytes = Buffer.alloc(16);
  for (const [i, word] of words.entries()) bytes.writeUInt32BE(word, i * 4);
  return [entry(owner, type, family === 4 ? bytes.subarray(12) : bytes, ttl)];
}

function message(question: Question, entries: readonly Buffer[], flags = 0, id = question.id): Buffer {
  const header = Buffer.alloc(12);
  header.writeUInt16BE(id, 0);
  header.writeUInt16BE(0x8180 | flags, 2);
  header.writeUInt16BE(1, 4);
  header.writeUInt16BE(entries.length, 6);
  return Buffer.concat([header, question.bytes, ...entries]);
}

function aliases(question: Question, chain: readonly string[], address: string | null): Buffer[] {
  let owner: Buffer = ASKED_NAME;
  const entries: Buffer[] = [];
  for (const name of chain) {
    const data = nameBytes(name);
    entries.push(entry(owner, CNAME, data));
    owner = data;
  }
  if (address !== null) entries.push(...addressEntry(question.type, address, undefined, owner));
  return entries;
}

/** Answers one question. It calls `send` any number of times, also later. */
type Answerer = (question: Question, tcp: boolean, send: (bytes: Buffer) => void) => void;

function makeAnswerer(seed: number, forbidden: readonly string[]): Answerer {
  let counter = 0;
  const asked = new Map<string, number>();
  const many = Array.from({ length: EMPTY_ADDRESSES }, (_, i) => addressEntry(A, emptyAddress(i))[0]!);

  return (question, tcp, send) => {
    const rng = new Rng(seed, counter++);
    const [receiver = "", , zone = ""] = question.labels;
    const address = receiverAddress(Number(receiver.replace(/\D/g, "")));
    const found = addressEntry(question.type, address);
    const other = addressEntry(question.type, rng.pick(forbidden));
    const kind = `dns-${zone}` as NameKind;
    switch (kind) {
      case "dns-cname":
        return send(message(question, aliases(question, ["a.test", "b.test", "c.test", "d.test"], address)));
      case "dns-loop":
        return send(message(question, aliases(question, ["a.test", "b.test", "a.test"], null)));
      case "dns-many":
        if (!tcp) return send(message(question, [], TC));
        return send(message(question, question.type === A ? [...found, ...many] : []));
      case "dns-truncated":
        return send(tcp ? message(question, found) : message(question, [], TC));
      case "dns-tcp-silent":
        return tcp ? undefined : send(message(question, [], TC));
      case "dns-nxdomain":
        return send(message(question, [], NXDOMAIN));
      case "dns-servfail":
        return send(message(question, [], SERVFAIL));
      case "dns-silent":
        return;
      case "dns-empty":
        return send(message(question, []));
      case "dns-query": {
        const bytes = message(question, found);
        bytes[2]! &= 0x7f;
        return send(bytes);
      }
      case "dns-garbage": {
        const bytes = Buffer.from(Array.from({ length: rng.int(1, 200) }, () => rng.int(0, 255)));
        if (rng.oneIn(2) && bytes.length > 2) bytes.writeUInt16BE(question.id, 0);
        return send(bytes);
      }
      case "dns-cut": {
        const bytes = message(question, found);
        return send(bytes.subarray(0, rng.int(3, bytes.length - 1)));
      }
      case "dns-wrong-id":
        send(message(question, other, 0, question.id ^ rng.int(1, 0xffff)));
        if (rng.oneIn(2)) send(message(question, found));
        return;
      case "dns-wrong-name": {
        const bytes = Buffer.from(message(question, other));
        bytes[13] = bytes[13]! ^ 1;
        send(bytes);
        if (rng.oneIn(2)) send(message(question, found));
        return;
      }
      case "dns-rebind": {
        const name = `${question.labels.join(".")} ${question.type}`;
        const nth = asked.get(name) ?? 0;
        asked.set(name, nth + 1);
        if (asked.size > MAX_REBOUND) asked.delete(asked.keys().next().value!);
        // TTL 0: the proxy may repeat the question at once.
        return send(message(question, addressEntry(question.type, nth % 2 === 0 ? address : rng.pick(forbidden), 0)));
      }
      case "dns-private":
        return send(message(question, other));
      case "dns-mixed":
        return send(message(question, rng.oneIn(2) ? [...found, ...other] : [...other, ...found]));
      case "dns-mapped":
        return send(message(question, addressEntry(question.type, `::ffff:${address}`)));
      case "dns-twice":
        send(message(question, found));
        return send(message(question, other));
      case "dns-late":
        setTimeout(() => send(message(question, found)), rng.int(0, LATE_MS));
        return;
      default:
        return send(message(question, found));
    }
  };
}

/** Serves DNS over UDP and TCP. `forbidden`: addresses that the proxy must not dial, whatever answer contains them. */
export async function serveDns(seed: number, forbidden: readonly string[]): Promise<void> {
  const answer = makeAnswerer(seed, forbidden);
  const udp = createSocket("udp4");
  udp.on("message", (query, from) => {
    const question = readQuestion(query);
    if (question !== null) answer(question, false, (bytes) => udp.send(bytes, from.port, from.address));
  });
  udp.on("error", (error) => console.error(`DNS server: ${error.message}`));
  const tcp = createServer((socket: Socket) => {
    let pending: Buffer = Buffer.alloc(0);
    socket.on("error", () => socket.destroy());
    socket.setTimeout(5000, () => socket.destroy());
    socket.on("data", (chunk) => {
      pending = Buffer.concat([pending, chunk]);
      while (pending.length > 2 && pending.length >= 2 + pending.readUInt16BE(0)) {
        const end = 2 + pending.readUInt16BE(0);
        const question = readQuestion(pending.subarray(2, end));
        pending = pending.subarray(end);
        if (question === null) continue;
        answer(question, true, (bytes) => {
          const length = Buffer.alloc(2);
          length.writeUInt16BE(bytes.length);
          if (socket.writable) socket.write(Buffer.concat([length, bytes]));
        });
      }
    });
  });
  tcp.listen(DNS.port, DNS.host);
  udp.bind(DNS.port, DNS.host);
  await Promise.all([once(tcp, "listening"), once(udp, "listening")]);
}
