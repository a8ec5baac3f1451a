import { isIP, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import type { Names } from "../dns/names.ts";
import { type BodyReader, ChunkedBody, LengthBody, UntilClose } from "../http/body.ts";
import { ResponseHeadParser } from "../http/head.ts";
import { newRecord } from "../outcome/access-record.ts";
import type { Failure } from "../outcome/refusals.ts";
import { formatAddress, parseAddress } from "../policy/cidr.ts";
import type { PolicySet } from "../policy/engine.ts";
import { plainLine } from "../policy/rules.ts";
import type { Target } from "../policy/target.ts";
import { connectVia } from "./chain.ts";
import { type Destinations, decideTarget } from "./decide-target.ts";
import { type DialOptions, dial } from "./dial.ts";
import type { Hop } from "./hop.ts";
import type { Ask } from "./verifier.ts";

/** Limit in bytes of an echo body: it is an address, or JSON with one. */
const MAX_BODY_BYTES = 16_384;
/** Limit in bytes of a whole answer on the wire: heads, chunk sizes, trailers and body. */
const MAX_ANSWER_BYTES = 65_536;
/** Limit of interim responses (1xx, RFC 9110 §15.2) before an answer: servers send one or two. */
const MAX_INTERIM = 8;
/** Limit in characters of an error, which `/status` and the log show: it may contain text of the server. */
const MAX_ERROR = 300;

/** The port of an http or https URL. */
export function portOfUrl(url: URL): number {
  return Number(url.port) || (url.protocol === "https:" ? 443 : 80);
}

/** The host of a URL for resolving: no brackets, no trailing dot. */
export function hostOfUrl(url: URL): string {
  return url.hostname.replace(/^\[|\]$/g, "").replace(/\.$/, "");
}

/** Reads an echo body: an address as text, or JSON with `ip`. @throws Error */
function parseEcho(body: string): string {
  const trimmed = body.trim();
  let text: unknown = trimmed;
  if (trimmed.startsWith("{")) {
    try {
      text = (JSON.parse(trimmed) as { ip?: unknown }).ip;
    } catch {
      throw new Error("answered with broken JSON");
    }
  }
  const plain = typeof text === "string" ? text.replace(/^::ffff:(?=\d+\.\d+\.\d+\.\d+$)/i, "") : "";
  const address = parseAddress(plain);
  if (address === null) throw new Error("answered with something that is neither an address nor JSON with ip");
  return formatAddress(address);
}

/**
 * Sends a request to an echo URL over a connected socket (TLS is verified, redirects are not followed) and closes it.
 * Returns the address in the answer. @throws Error whose message describes the failure
 */
export function observe(url: URL, raw: Socket, timeoutMs: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const host = hostOfUrl(url);
    const tls = { socket: raw, host, ...(isIP(host) ? {} : { servername: host }), ALPNProtocols: ["http/1.1"] };
    const socket: Socket = url.protocol === "https:" ? connectTls(tls) : raw;
    const timer = setTimeout(() => fail(`did not answer within ${timeoutMs / 1000} s`), timeoutMs);
    const finish = () => {
      clearTimeout(timer);
      socket.destroy();
      raw.destroy();
    };
    const fail = (what: string) => {
      finish();
      reject(new Error(plainLine(what, MAX_ERROR)));
    };
    let parser = new ResponseHeadParser();
    let reader: BodyReader | null = null;
    let interim = 0;
    let received = 0;
    let body = "";
    const done = () => {
      finish();
      try {
        resolve(parseEcho(body));
      } catch (error) {
        reject(error);
      }
    };
    const take = (chunk: Buffer) => {
      received += chunk.length;
      if (received > MAX_ANSWER_BYTES) return fail(`answered with more than ${MAX_ANSWER_BYTES} bytes`);
      let rest = chunk;
      while (reader === null) {
        const parsed = parser.feed(rest);
        if (parsed === null) return;
        if ("error" in parsed) return fail(`answered with broken HTTP: ${parsed.error}`);
        const { head } = parsed;
        if (head.status < 200 && head.status !== 101) {
          if (++interim > MAX_INTERIM) return fail(`answered with more than ${MAX_INTERIM} interim responses`);
          parser = new ResponseHeadParser();
          rest = parsed.rest;
          continue;
        }
        if (head.status !== 200) {
          const hint = head.status >= 300 && head.status < 400 ? "; redirects are not followed" : "";
          return fail(`answered ${head.status}${hint}`);
        }
        if (head.chunked) reader = new ChunkedBody("answer");
        else reader = head.contentLength === undefined ? new UntilClose() : new LengthBody(head.contentLength);
        rest = parsed.rest;
      }
      const behind = reader.feed(rest, (payload) => {
        body += payload.toString("latin1");
      });
      if (body.length > MAX_BODY_BYTES) fail(`answered with more than ${MAX_BODY_BYTES} bytes`);
      else if (behind !== null) done();
    };
    socket.on("data", (chunk: Buffer) => {
      try {
        take(chunk);
      } catch (error) {
        fail(`answered with a broken body: ${(error as Error).message}`);
      }
    });
    socket.on("error", (error) => fail(error.message));
    if (socket !== raw) raw.on("error", (error) => fail(error.message));
    const onEnd = () => {
      if (reader instanceof UntilClose) done();
      else fail("closed without an answer");
    };
    socket.on("end", onEnd);
    socket.on("close", onEnd);
    const fields = `Host: ${url.host}\r\nUser-Agent: outrider\r\nAccept: text/plain, application/json\r\nConnection: close`;
    socket.write(`GET ${url.pathname}${url.search} HTTP/1.1\r\n${fields}\r\n\r\n`);
    socket.resume();
  });
}

/** Connects to one of the addresses, through the upstream proxy if there is one, or rejects with the reason. */
function connected(vetted: Destinations, hop: Hop | null, names: Names, options: Omit<DialOptions, "routes">) {
  return new Promise<Socket>((resolve, reject) => {
    const done = (result: { socket: Socket } | Failure) => {
      if ("code" in result) reject(new Error(result.reason));
      else resolve(result.socket);
    };
    if (hop === null) dial(vetted.addresses, { ...options, routes: vetted.routes }, done);
    else connectVia(hop, vetted, { ...options, names }, done);
  });
}

/**
 * Requests echo URLs on the proxy's own dial path: resolved, vetted and dialled as every target. `echoSet` has none of
 * the policy's lists. The gate is skipped, because it waits for this answer. `hopOf`: the upstream proxy now.
 */
export function makeAsk(names: Names, echoSet: () => PolicySet | null, hopOf: () => Hop | null): Ask {
  return async (url, route, timeoutMs) => {
    if (route.source !== undefined && !route.source.assigned)
      throw new Error(`${route.key} is not assigned to this machine`);
    const began = performance.now();
    const host = hostOfUrl(url);
    const target: Target = { host, ip: parseAddress(host) !== null, port: portOfUrl(url) };
    const gate = { routesFor: () => ({ 4: route, 6: route }), entry: () => null, refusal: () => null };
    const [set, hop] = [echoSet(), hopOf()];
    if (set === null) throw new Error("this proxy has no policy yet");
    const vetted = await new Promise<Destinations | Failure>((resolve) => {
      decideTarget(set, { names, gate, family: route.family }, "", target, newRecord("connect", "", host), resolve);
    });
    if ("code" in vetted) throw new Error(vetted.reason);
    const addresses = vetted.addresses.filter((address) => address.family === route.family);
    if (addresses.length === 0 && vetted.addresses.length > 0)
      throw new Error(`${host} has no IPv${route.family} address`);
    const left = () => Math.max(1, Math.ceil(timeoutMs - (performance.now() - began)));
    const options = { target, policy: set, shown: url.host, deadlineMs: left() };
    const socket = await connected({ addresses, routes: vetted.routes }, hop, names, options);
    return observe(url, socket, left());
  };
}
