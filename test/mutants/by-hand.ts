import { spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** Mutants of modules that run as a program: one text replaced by another, and a test that has to fail. */

export interface HandMade {
  /** The guarantee that the mutant breaks. */
  name: string;
  source: string;
  /** Exactly one place of the source. */
  search: string;
  replacement: string;
  /** The test file, and a part of the name of the test that has to fail. */
  test: readonly [file: string, name: string];
}

const EXCHANGE = "proxy/connections/exchange.ts";
const CHAIN = "proxy/egress/chain.ts";
const CHAIN_TEST = "test/proxy/chain.test.ts";
const FORWARD = "proxy/connections/forward.ts";
const PERMIT = "proxy/connections/permit.ts";
const SERVER = "proxy/connections/server.ts";
const RESPONSE = "proxy/connections/response-relay.ts";

export const HAND_MADE: readonly HandMade[] = [
  {
    name: "Connection cannot remove a framing field",
    source: "proxy/http/fields.ts",
    search: "(connection.has(lower) && !KEPT.has(lower))",
    replacement: "connection.has(lower)",
    test: ["test/proxy/framing.test.ts", "a request that nominates content-length"],
  },
  {
    name: "the gate is checked again before the 200",
    source: PERMIT,
    search: "?? gate.refusal(request.route, request.dialled);",
    replacement: "?? null;",
    test: ["test/proxy/verify.test.ts", "refuses a CONNECT whose proof is lost during its dial: silence"],
  },
  {
    name: "the gate compares the start of the dial with wrong answers",
    source: PERMIT,
    search: "gate.refusal(request.route, request.dialled)",
    replacement: "gate.refusal(request.route)",
    test: ["test/proxy/verify.test.ts", "refuses a CONNECT whose proof is lost during its dial: a wrong answer"],
  },
  {
    name: "a new policy decides again before the 200",
    source: PERMIT,
    search: "changed ? this.#decideAgain(request) : this.#invalid()",
    replacement: "this.#invalid()",
    test: ["test/proxy/reload.test.ts", "a reload during a dial refuses a newly denied request"],
  },
  {
    name: "a certificate is checked again before a request is sent",
    source: PERMIT,
    search: "changed ? this.#decideAgain(request) : this.#invalid()",
    replacement: "changed ? this.#decideAgain(request) : null",
    test: ["test/proxy/tls-crl.test.ts", "a client certificate that expires during a dial sends no request"],
  },
  {
    name: "an upstream is reused only after the whole request body",
    source: EXCHANGE,
    search: "if (this.#response.keepsUpstream && this.#request.done)",
    replacement: "if (this.#response.keepsUpstream)",
    test: ["test/proxy/framing.test.ts", "does not reuse an upstream that answers before the body ends"],
  },
  {
    name: "a connection is kept only after the whole request body",
    source: EXCHANGE,
    search: "this.#close || !this.#request.done || hasEnded",
    replacement: "this.#close || hasEnded",
    test: ["test/proxy/framing.test.ts", "does not reuse an upstream that answers before the body ends"],
  },
  {
    name: "the early bytes of a CONNECT are bounded",
    source: "proxy/connections/reaching.ts",
    search: "if (this.#early.length >= MAX_EARLY_BYTES) this.client.socket.pause();",
    replacement: "",
    test: ["test/proxy/early-bytes.test.ts", "CONNECT"],
  },
  {
    name: "the early bytes of a request are bounded",
    source: "proxy/connections/reaching.ts",
    search: "if (this.#early.length >= MAX_EARLY_BYTES) this.client.socket.pause();",
    replacement: "",
    test: ["test/proxy/early-bytes.test.ts", "POST"],
  },
  {
    name: "a removed entry ends its requests, also where default allows them",
    source: PERMIT,
    search: "this.#entry !== null && !policy.views?.has(this.#entry)",
    replacement: "false",
    test: ["test/proxy/clients-reload.test.ts", "a removed entry ends its requests, also where default allows them"],
  },
  {
    name: "idle upstream connections belong to one entry",
    source: "proxy/connections/forward.ts",
    search: "policy.entry === null ? key",
    replacement: "true ? key",
    test: ["test/proxy/clients-interleaved.test.ts", "idle upstream connections serve the clients of one entry"],
  },
  {
    name: "a connection that NTLM authenticated serves one user of a client connection",
    source: "proxy/connections/client-connection.ts",
    search: "!isSameUser(this.#identity, entry.identity)",
    replacement: "false",
    test: [
      "test/proxy/clients-interleaved.test.ts",
      "a connection that NTLM binds serves one user of a client connection",
    ],
  },
  {
    name: "maxTunnelsPerClient is the limit, not one less than it",
    source: SERVER,
    search: "mine >= limit",
    replacement: "mine > limit",
    test: ["test/proxy/abuse.test.ts", "maxTunnelsPerClient limits each client address on its own"],
  },
  {
    name: "maxTunnels is the limit, not one less than it",
    source: SERVER,
    search: "this.#active >= this.settings.maxTunnels",
    replacement: "this.#active > this.settings.maxTunnels",
    test: ["test/proxy/abuse.test.ts", "--max-tunnels: further tunnels get 503"],
  },
  {
    name: "a connection that NTLM authenticated serves one client",
    source: "proxy/sockets/pool.ts",
    search: "if (one.owner === undefined) entry ??= one;",
    replacement: "entry ??= one;",
    test: ["test/proxy/forward.test.ts", "never shares connections authenticated by NTLM or Negotiate"],
  },
  {
    name: "traffic keeps a tunnel, silence ends it",
    source: "proxy/connections/tunnel.ts",
    search: "if (silent >= this.#idleMs)",
    replacement: "if (silent < 0)",
    test: ["test/proxy/idle.test.ts", "a tunnel, from the client$"],
  },
  {
    name: "a target cannot answer with 407",
    source: RESPONSE,
    search: "if (head.status === 407)",
    replacement: "if (head.status === 0)",
    test: ["test/proxy/hostile/forged-voice.test.ts", "replaces a target's 407 by 502"],
  },
  {
    name: "the upstream of an answer with a repaired head is not reused",
    source: RESPONSE,
    search: "if (parsed.head.repaired) this.#faulty = true;",
    replacement: "",
    test: ["test/proxy/repaired-answers.test.ts", "repairs LF without CR and does not reuse"],
  },
  {
    name: "the upstream of an answer with repaired chunks is not reused",
    source: RESPONSE,
    search: " || this.#body?.repaired",
    replacement: "",
    test: ["test/proxy/repaired-answers.test.ts", "repairs white space after a chunk size"],
  },
  {
    name: "the upstream of an answer with bytes behind its body is not reused",
    source: RESPONSE,
    search: "if (rest.length > 0) this.#faulty = true;",
    replacement: "",
    test: ["test/proxy/repaired-answers.test.ts", "no request gets the bytes behind chunks"],
  },
  {
    name: "the upstream of an answer with bytes in place of a body is not reused",
    source: RESPONSE,
    search: "if (chunk.length > 0) this.#faulty = true;",
    replacement: "",
    test: ["test/proxy/repaired-answers.test.ts", "no request gets the bytes behind an answer without body"],
  },
  {
    name: "bytes of an idle upstream close it",
    source: "proxy/sockets/upstream.ts",
    search: "    socket.destroy();\n    return false;",
    replacement: "    return true;",
    test: ["test/proxy/repaired-answers.test.ts", "bytes of an idle upstream close it"],
  },
  {
    name: "a POST is never sent twice",
    source: "proxy/http/fields.ts",
    search: "REPEATABLE_METHODS.has(method) && ",
    replacement: "",
    test: ["test/proxy/closing-upstreams.test.ts", "never sends a POST twice after FIN"],
  },
  {
    name: "a request is sent again only before the first byte of its answer",
    source: EXCHANGE,
    search: "reused && this.#response.silent && ",
    replacement: "reused && ",
    test: ["test/proxy/closing-upstreams.test.ts", "only if no byte of its answer arrived"],
  },
  {
    name: "the second attempt uses a new connection",
    source: FORWARD,
    search: "this.#send(this.#onward!, false);",
    replacement: "this.#send(this.#onward!, true);",
    test: ["test/proxy/closing-upstreams.test.ts", "never sends a request to a second closing connection"],
  },
  {
    name: "the first request of a client gets a new upstream",
    source: FORWARD,
    search: "!this.client.first",
    replacement: "true",
    test: ["test/proxy/closing-upstreams.test.ts", "the first request of a client gets a new upstream"],
  },
  {
    name: "a second attempt may begin while the proxy drains",
    source: PERMIT,
    search: " && !again)",
    replacement: ")",
    test: ["test/proxy/closing-upstreams.test.ts", "sends a request once more during a graceful shutdown"],
  },
  {
    name: "a request that is sent again takes one token",
    source: PERMIT,
    search: "(again ? null : this.#charge(view, key))",
    replacement: "this.#charge(view, key)",
    test: ["test/proxy/client-limits.test.ts", "a request that is sent again takes one token"],
  },
  {
    name: "one host cannot use a bucket for each address of its IPv6 network",
    source: PERMIT,
    search: "limitsKey(key)",
    replacement: "key",
    test: ["test/proxy/client-limits.test.ts", "all IPv6 addresses of a /64 are one client without a name"],
  },
  {
    name: "a removed entry leaves no metrics",
    source: SERVER,
    search: "    this.clientCounts.use(policy);",
    replacement: "    if (this.clientCounts[Symbol.iterator]().next().done) this.clientCounts.use(policy);",
    test: ["test/proxy/client-limits.test.ts", "metrics by client have the entries of the policy"],
  },
  {
    name: "the upstream proxy gets the vetted address, not the name",
    source: CHAIN,
    search: "formatTarget(address === null ? target : { ...target, host: formatAddress(address) })",
    replacement: "formatTarget(target)",
    test: [CHAIN_TEST, "the name of a target never reaches the upstream proxy"],
  },
  {
    name: "the bytes behind the 2xx of the upstream proxy are kept",
    source: CHAIN,
    search: "return next.upstreamRead(result.rest.length);",
    replacement: "return true;",
    test: [CHAIN_TEST, "keeps the bytes behind the 2xx"],
  },
  {
    name: "a status of the upstream proxy is never ours",
    source: "proxy/egress/hop-answer.ts",
    search: "if (status >= 200 && status < 300)",
    replacement: "if (status >= 200 && status < 400)",
    test: [CHAIN_TEST, "each failure of the upstream proxy has its own refusal"],
  },
  {
    name: "a tunnel belongs to its upstream proxy",
    source: PERMIT,
    search: ": hop?.key !== now?.key;",
    replacement: ": false;",
    test: [CHAIN_TEST, "a reload of the upstream proxy ends tunnels"],
  },
  {
    name: "an idle connection belongs to its upstream proxy",
    source: FORWARD,
    search: "const key = hop === null ? direct :",
    replacement: "const key = true ? direct :",
    test: ["test/proxy/chain-named.test.ts", "idle connections to their upstream proxy"],
  },
  {
    name: "a proof belongs to its upstream proxy",
    source: "proxy/egress/verifier.ts",
    search: "via === this.#via ? this.#proofs : new Map<string, Proof>()",
    replacement: "this.#proofs",
    test: [CHAIN_TEST, "verification goes through the upstream proxy"],
  },
  {
    name: "no proof holds for an upstream proxy that a request names",
    source: "proxy/connections/reaching.ts",
    search: "if (gate.entry(through) === null) return",
    replacement: "if (gate.entry(routes) === null) return",
    test: ["test/proxy/chain-named.test.ts", "with verification Block, a request cannot leave"],
  },
  {
    name: "the upstream proxy has no address of this machine",
    source: "proxy/egress/hop.ts",
    search: "[...own, ...statics, ...sources]",
    replacement: "[...sources]",
    test: ["test/proxy/chain-proxies.test.ts", "no address of this machine, and no static IP"],
  },
];

const root = new URL("../..", import.meta.url).pathname;
const tree = join(root, ".cache/mutants/tree");
/** A test that hangs is a failed test. Longer than a test may take (`test/run.ts`). */
const LIMIT_MS = 180_000;
const COPIED = ["bin", "proxy", "operator", "test", "crds", "docs", "examples", "package.json"];

/** A copy of the project, since others may use this one. */
function copyTree(): void {
  rmSync(tree, { recursive: true, force: true });
  mkdirSync(tree, { recursive: true });
  for (const name of COPIED) cpSync(join(root, name), join(tree, name), { recursive: true });
  symlinkSync(join(root, "node_modules"), join(tree, "node_modules"));
}

/** Result of a test by its TAP output; "none" if no test has this name. */
async function runTest([file, name]: HandMade["test"]): Promise<"passed" | "failed" | "none"> {
  const args = ["--test", "--test-reporter=tap", "--test-force-exit", `--test-name-pattern=${name}`, file];
  const limit = ["-k", "5", `${LIMIT_MS / 1000}`, process.execPath, ...args];
  const child = spawn("timeout", limit, { cwd: tree, stdio: ["ignore", "pipe", "ignore"] });
  let text = "";
  child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
    text += chunk;
  });
  const [status] = (await once(child, "close")) as [number | null];
  if (status !== 0) return "failed";
  return Number(/^# pass (\d+)$/m.exec(text)?.[1] ?? 0) > 0 ? "passed" : "none";
}

/** Runs the test of a mutant without and with it. Undefined: the test detects the mutant. Else why not. */
async function fault({ source, search, replacement, test }: HandMade, good: Set<string>): Promise<string | undefined> {
  const path = join(tree, source);
  const text = readFileSync(path, "utf8");
  const places = text.split(search).length - 1;
  if (places !== 1) return `${source} has ${places} times: ${search}`;
  const key = test.join(": ");
  if (!good.has(key)) {
    const result = await runTest(test);
    if (result !== "passed") return `without the mutant, ${key}: ${result}`;
    good.add(key);
  }
  writeFileSync(
    path,
    text.replace(search, () => replacement),
  );
  const result = await runTest(test);
  writeFileSync(path, text);
  return result === "failed" ? undefined : `survived ${key}`;
}

/** Tests each hand-made mutant and prints a line for it. Returns whether all were detected. */
export async function testByHand(mutants: readonly HandMade[]): Promise<boolean> {
  copyTree();
  const good = new Set<string>();
  let passed = true;
  for (const [i, mutant] of mutants.entries()) {
    console.log(`by hand ${i + 1}/${mutants.length}: ${mutant.name}`);
    const why = await fault(mutant, good);
    passed &&= why === undefined;
    console.log(`  ${why === undefined ? "killed" : `FAULT: ${why}`}`);
  }
  return passed;
}
