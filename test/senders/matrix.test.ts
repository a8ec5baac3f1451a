import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { makeCertificate, opensslMissing } from "../harness/certificate.ts";
import { makeNetns, type Netns, netnsMissing } from "../harness/netns.ts";
import { type ProxyHandle, startProxy, tempFolder } from "../harness/proxy.ts";
import { ADDRESSES, CASES, type Case, NAMES, planOf } from "./cases.ts";
import { type Program, programs } from "./clients.ts";
import { runInside, startReceiver } from "./stage.ts";
import {
  type ClientLines,
  linesOf,
  type Row,
  readLines,
  readTables,
  type Seen,
  tablesOf,
  withoutVersion,
} from "./table.ts";

/**
 * Real HTTP clients × cases: what each client shows of deliveries and refusals. docs/senders.md has the tables
 * (`UPDATE=1` writes them). The clients run in a network namespace without a route out.
 */

const PAGE = new URL("../../docs/senders.md", import.meta.url).pathname;
const [BEGIN, END] = ["<!-- written by test/senders: begin -->\n", "<!-- end -->\n"];
const PASSWORD = "s3cret";
/** One program with all of its cases. A loaded machine takes 30 s for Java. */
const PROGRAM_MS = 150_000;
const HOOK_MS = 2 * PROGRAM_MS;

/**
 * Deliveries that fail because of the client: it sends an IPv6 literal without brackets, rejects it, or does not read an
 * answer that comes before the end of the body.
 */
const NOT_DELIVERED: Readonly<Record<string, string[]>> = {
  "Python urllib": ["IPv6-literal-https", "too-large-http"],
  httpx: ["IPv6-literal-http", "IPv6-literal-https"],
  "Java HttpClient": ["IPv6-literal-https"],
  "Java HttpURLConnection": ["too-large-http"],
  "Ruby Net::HTTP": ["IPv6-literal-https"],
};

const folder = tempFolder();
const ca = join(folder, "ca.pem");
const resolvConf = join(folder, "resolv.conf");
const missing = netnsMissing() ?? opensslMissing();
/** Without namespaces nothing is installed or built. */
const all: readonly Program[] = missing === null ? programs(folder) : [];
const clients = all.flatMap((program) => program.clients);
const rows = new Map<string, Row>();
const failures: string[] = [];
let net: Netns;
let proxy: ProxyHandle;
let receiver: ChildProcess;

const planFile = (password: Case["password"]) => join(folder, `plan-${password}`);

/** Runs a program with the environment that injection sets, and collects what its clients saw. */
async function play(program: Program, password: Case["password"]): Promise<void> {
  const plan = planFile(password);
  const settings = {
    ...{ host: proxy.host, port: proxy.port, user: "sender" },
    password: password === "right" ? PASSWORD : "wrong",
  };
  const url = `http://${settings.user}:${settings.password}@${settings.host}:${settings.port}`;
  const { command, env } = program.command({ plan, ca, proxy: settings });
  const { status, stdout, stderr } = await runInside(net, {
    command,
    env: { HTTP_PROXY: url, http_proxy: url, HTTPS_PROXY: url, https_proxy: url, ...env },
    // A client that resolves a target itself asks a port without a listener, and no server of this machine.
    mounts: { "/etc/resolv.conf": resolvConf },
    ms: PROGRAM_MS,
  });
  readLines(stdout, rows);
  if (status !== 0) failures.push(`${command.join(" ")}: exit status ${status}: ${stderr}`);
}

before(
  async () => {
    if (missing !== null) return;
    net = makeNetns(Object.values(ADDRESSES), []);
    makeCertificate(folder, [NAMES.receiver, ADDRESSES.receiver6]);
    writeFileSync(resolvConf, "nameserver 127.0.0.1\n");
    for (const password of ["right", "wrong"] as const) writeFileSync(planFile(password), planOf(password));
    receiver = await startReceiver(net, Object.values(ADDRESSES), folder);
    proxy = await startProxy({
      policy: { deny: [{ name: "competitors", hosts: ["*.competitor.example"] }], ports: [80, 443] },
      netns: net.inside,
      env: { PROXY_PASSWORD: PASSWORD },
      // Both are shorter than the slow receiver takes.
      args: ["--connect-seconds", "1", "--dns-seconds", "1", "--resolver", "127.0.0.1:53"],
      hosts: `${ADDRESSES.receiver} ${NAMES.receiver} ${NAMES.denied}\n`,
    });
    const runs = all.filter((program) => program.clients.some((client) => client.missing === undefined));
    await Promise.all(
      runs.map(async (program) => {
        await play(program, "right");
        await play(program, "wrong");
      }),
    );
  },
  { timeout: HOOK_MS },
);

after(async () => {
  if (missing !== null) return;
  if (proxy !== undefined) assert.equal(await proxy.stop(), 0);
  receiver?.kill("SIGKILL");
  net?.close();
});

/** The tables in docs/senders.md, and the text around them. */
function page(): { before: string; tables: string; after: string } {
  const text = readFileSync(PAGE, "utf8");
  const [begin, end] = [text.indexOf(BEGIN) + BEGIN.length, text.indexOf(END)];
  assert.ok(begin >= BEGIN.length && end >= begin, `${PAGE} has no tables: ${BEGIN}`);
  return { before: text.slice(0, begin), tables: text.slice(begin, end), after: text.slice(end) };
}

const linesByClient = (): Map<string, ClientLines> =>
  new Map([...rows.values()].map((row): [string, ClientLines] => [row.client, linesOf(row)]));

/** Writes the tables: clients that did not run keep their lines. */
function update(): void {
  const { before, tables, after } = page();
  const lines = new Map([...readTables(tables), ...linesByClient()]);
  const shown = clients.flatMap(({ name }) => lines.get(name) ?? []);
  writeFileSync(PAGE, `${before}\n${tablesOf(shown)}\n${after}`);
}

// Its time includes that of the hook.
test("every program plays all of its cases", { skip: missing ?? false, timeout: HOOK_MS }, () => {
  const lines = linesByClient();
  // The runner shows stderr.
  console.error(tablesOf(clients.flatMap(({ name }) => lines.get(name) ?? [])));
  assert.deepEqual(failures, []);
  if (process.env.UPDATE) update();
});

for (const { name, missing: lacks } of clients) {
  test(`${name}: delivers, and shows refusals as docs/senders.md`, { skip: lacks ?? false }, () => {
    const row: Row | undefined = rows.get(name);
    assert.ok(row, "its program printed nothing");
    for (const { id, wanted, column, varies } of CASES) {
      if (varies?.includes(name)) continue;
      const { status, body }: Seen = row.seen.get(id) ?? {};
      const isFromReceiver: boolean = /^(got POST \/|too large$)/.test(body ?? "");
      const expected = NOT_DELIVERED[name]?.includes(id) ? null : wanted;
      assert.equal(isFromReceiver ? status : null, expected, `${column}: ${JSON.stringify(row.seen.get(id))}`);
    }
    const documented = readTables(page().tables).get(name);
    assert.ok(documented, `docs/senders.md lacks ${name}; write it with UPDATE=1`);
    assert.deepEqual(withoutVersion(linesOf(row)), withoutVersion(documented), `version here: ${row.version}`);
  });
}

if (missing !== null) test("the matrix of senders", { skip: missing }, () => {});

test("docs/senders.md shows no other client", { skip: missing ?? false }, () => {
  const names = new Set(clients.map(({ name }) => name));
  assert.deepEqual(
    [...readTables(page().tables).keys()].filter((name) => !names.has(name)),
    [],
  );
});
