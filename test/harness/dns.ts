import { createSocket } from "node:dgram";
import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { parseAddress } from "../../proxy/policy/cidr.ts";

/** What the server says to one question. */
export type DnsReply =
  | { addresses: string[]; ttl?: number }
  | { rcode: "NXDOMAIN" | "SERVFAIL" }
  /** No answer at all. */
  | "silent"
  /** Over UDP "ask again by TCP"; over TCP these addresses. */
  | { truncated: string[] };

const RCODES = { NXDOMAIN: 3, SERVFAIL: 2 } as const;
const TYPES: Readonly<Record<number, "A" | "AAAA">> = { 1: "A", 28: "AAAA" };

function addressBytes(text: string): Buffer {
  const { family, words } = parseAddress(text)!;
  const bytes = Buffer.alloc(16);
  for (const [i, word] of words.entries()) bytes.writeUInt32BE(word, i * 4);
  return family === 4 ? bytes.subarray(12) : bytes;
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

function response(query: Buffer, end: number, flags: number, answers: readonly Buffer[]): Buffer {
  const header = Buffer.from(query.subarray(0, 12));
  header.writeUInt16BE(0x8180 | flags, 2);
  header.writeUInt16BE(1, 4);
  header.writeUInt16BE(answers.length, 6);
  header.writeUInt32BE(0, 8);
  return Buffer.concat([header, query.subarray(12, end), ...answers]);
}

/** A DNS server on loopback, UDP and TCP, that answers from `zone` and keeps every question. */
export async function startDns(zone: (name: string, type: string, nth: number) => DnsReply) {
  const queries: { name: string; type: string; transport: "udp" | "tcp" }[] = [];
  const answer = (query: Buffer, transport: "udp" | "tcp"): Buffer | null => {
    const { name, type, end } = readQuestion(query);
    const nth = queries.filter((q) => q.name === name && q.type === type).length + 1;
    queries.push({ name, type, transport });
    const reply = zone(name, type, nth);
    if (reply === "silent") return null;
    if ("rcode" in reply) return response(query, end, RCODES[reply.rcode], []);
    if ("truncated" in reply && transport === "udp") return response(query, end, 0x0200, []);
    const addresses = "truncated" in reply ? reply.truncated : reply.addresses;
    const ttl = "ttl" in reply ? (reply.ttl ?? 60) : 60;
    const wanted = addresses.filter((text) => text.includes(":") === (type === "AAAA"));
    const records = wanted.map((text) => {
      const data = addressBytes(text);
      const record = Buffer.alloc(12);
      record.writeUInt16BE(0xc00c, 0);
      record.writeUInt16BE(type === "A" ? 1 : 28, 2);
      record.writeUInt16BE(1, 4);
      record.writeUInt32BE(ttl, 6);
      record.writeUInt16BE(data.length, 10);
      return Buffer.concat([record, data]);
    });
    return response(query, end, 0, records);
  };
  const udp = createSocket("udp4");
  udp.on("message", (query, from) => {
    const bytes = answer(query, "udp");
    if (bytes !== null) udp.send(bytes, from.port, from.address);
  });
  udp.bind(0, "127.0.0.1");
  await once(udp, "listening");
  const { port } = udp.address();
  const tcp = createServer((socket) => {
    let pending = Buffer.alloc(0);
    socket.on("error", () => socket.destroy());
    socket.on("data", (chunk) => {
      pending = Buffer.concat([pending, chunk]);
      while (pending.length > 2 && pending.length >= 2 + pending.readUInt16BE(0)) {
        const length = pending.readUInt16BE(0);
        const bytes = answer(pending.subarray(2, 2 + length), "tcp");
        pending = pending.subarray(2 + length);
        if (bytes === null) continue;
        const prefix = Buffer.alloc(2);
        prefix.writeUInt16BE(bytes.length);
        socket.write(Buffer.concat([prefix, bytes]));
      }
    });
  });
  tcp.listen(port, "127.0.0.1");
  await once(tcp, "listening");
  const close = async () => {
    udp.close();
    await new Promise((resolve) => tcp.close(resolve));
  };
  return { address: `127.0.0.1:${(tcp.address() as AddressInfo).port}`, queries, close };
}
