import { once } from "node:events";
import { appendFileSync, readFileSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { join } from "node:path";
import { type DnsReply, startDns } from "../../harness/dns.ts";
import { DNS_HOST, FOUR, SIX } from "./addresses.ts";

/**
 * The receiver of webhooks and the DNS server of the "internet"; run by internet.ts in its network namespace, with a
 * folder. Every request is a line of `received.jsonl`; names are answered from `zone.json`, which is read for every
 * query.
 */

const folder = process.argv[2]!;

/** Answers of a name: one after the other; the last one is repeated (rebinding). */
export type Zone = Record<string, string[][]>;

const answer = (request: IncomingMessage, response: ServerResponse) => {
  request.resume();
  request.on("end", () => {
    const address = request.socket.remoteAddress!.replace(/^::ffff:/, "");
    const line = { at: Date.now(), address, host: request.headers.host, path: request.url };
    appendFileSync(join(folder, "received.jsonl"), `${JSON.stringify(line)}\n`);
    response.end(`${address}\n`);
  });
};
for (const { receiver } of [FOUR, SIX]) {
  const server = createServer(answer);
  // Only the proxies close idle connections.
  server.keepAliveTimeout = 60_000;
  server.listen(80, receiver);
  await once(server, "listening");
}
await startDns(
  (name, type, nth): DnsReply => {
    const zone = JSON.parse(readFileSync(join(folder, "zone.json"), "utf8")) as Zone;
    const answers = zone[name];
    if (answers === undefined) return { rcode: "NXDOMAIN" };
    const addresses = answers[Math.min(nth, answers.length) - 1]!;
    return { addresses: addresses.filter((one) => one.includes(":") === (type === "AAAA")), ttl: 1 };
  },
  { host: DNS_HOST, port: 53 },
);
console.log("ready");
