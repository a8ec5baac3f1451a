import type { ClientEntry } from "../../proxy/policy/clients.ts";
import { encodeDocument, makeDocument, type PolicyDocument } from "../../proxy/policy/document.ts";
import { compile, decideKnown, decideName, type PolicySet, viewOf } from "../../proxy/policy/engine.ts";
import { readPolicy } from "../../proxy/policy/policy-file.ts";
import { parseAuthority, type Target } from "../../proxy/policy/target.ts";
import { spread } from "./ratios.ts";

/** The cost of a large policy in this process: load, memory, decisions. */

const HOSTS = 90_000;
const WILDCARDS = 10_000;
const CIDRS = 10_000;
const ROUNDS = 7;
const DECISIONS = 100_000;
/** Half of the targets are on the list. */
const TARGETS = 4096;

function document(): string {
  const hosts = Array.from({ length: HOSTS }, (_, i) => `h${i}.customer-${i % 977}.example`);
  const wild = Array.from({ length: WILDCARDS }, (_, i) => `*.w${i}.tenant.example`);
  const cidrs = Array.from({ length: CIDRS }, (_, i) => {
    if (i % 5 === 0) return `2a00:${(i + 1).toString(16)}::/32`;
    return `${11 + (i % 80)}.${(i >> 5) % 256}.${(i * 8) % 256}.0/29`;
  });
  const allow = [{ name: "hosts", hosts: [...hosts, ...wild] }];
  const deny = [{ name: "ranges", cidrs: [...new Set(cidrs)] }];
  return JSON.stringify({ version: 1, policy: "bench/large", defaultAction: "Deny", allow, deny });
}

const timed = (run: () => void): number => {
  const began = performance.now();
  run();
  return performance.now() - began;
};

/** Times of medians: milliseconds to load (parse, validate, hash, compile), megabytes held, microseconds a decision. */
export function measurePolicy() {
  const text = document();
  const load = () => compile(readPolicy(text, { name: "large" }).document);
  const collect = globalThis.gc;
  collect?.();
  const before = process.memoryUsage().heapUsed + process.memoryUsage().arrayBuffers;
  let set = load();
  collect?.();
  const held = process.memoryUsage().heapUsed + process.memoryUsage().arrayBuffers - before;
  const loads = Array.from({ length: ROUNDS }, () =>
    timed(() => {
      set = load();
    }),
  );
  const targets = Array.from({ length: TARGETS }, (_, i): Target => {
    const known = i % 4 === 0 ? `a.b.w${i % WILDCARDS}.tenant.example` : `h${i}.customer-${i % 977}.example`;
    return parseAuthority(`${i % 2 === 0 ? known : `unknown-${i}.example`}:443`)!;
  });
  const addresses = Array.from({ length: TARGETS }, (_, i) => [`${11 + (i % 80)}.${i % 256}.${i % 251}.9`]);
  let sum = 0;
  const names = () => {
    for (let i = 0; i < DECISIONS; i++) sum += "code" in decideName(set, targets[i % TARGETS]!) ? 1 : 0;
  };
  const whole = () => {
    for (let i = 0; i < DECISIONS; i++) {
      sum += decideKnown(set, targets[i % TARGETS]!, addresses[i % TARGETS]!).verdict === "allow" ? 1 : 0;
    }
  };
  names();
  whole();
  const us = (run: () => void) => spread(Array.from({ length: ROUNDS }, () => (timed(run) * 1000) / DECISIONS)).median;
  const result = { nameUs: us(names), addressUs: us(whole) };
  if (sum === 0) throw new Error("nothing was decided");
  return {
    hosts: HOSTS + WILDCARDS,
    cidrs: CIDRS,
    loadMs: spread(loads).median,
    megabytes: collect === undefined ? Number.NaN : held / 1e6,
    ...result,
  };
}

const CLIENTS = 200;
/** Bounds of the CRD for a rule list of a policy and of a client, and for the host sets of a rule. */
const POLICY_RULES = 256;
const CLIENT_RULES = 16;
const RULE_SETS = 8;

/** 200 clients, each with one rule of its own, which refers to the same 10,000 hosts. */
function sharedSet(): PolicyDocument {
  const hosts = Array.from({ length: 10_000 }, (_, i) => `h${i}.customer-${i % 977}.example`);
  const clients = Array.from({ length: CLIENTS }, (_, i): ClientEntry => {
    return { name: `client-${i}`, allow: [{ hosts: ["set:shared", `own-${i}.example`] }] };
  });
  return makeDocument({ version: 2, policy: "bench/clients", hostSets: [{ name: "shared", hosts }], clients });
}

/** One client at the bounds: every rule has names of any depth, and none matches. */
function atTheBounds(): PolicyDocument {
  const hostSets = Array.from({ length: 64 }, (_, i) => ({
    name: `s${i}`,
    hosts: Array.from({ length: 20 }, (_, k) => `*.w${k}.s${i}.example`),
  }));
  const allow = Array.from({ length: POLICY_RULES }, (_, i) => ({ hosts: [`*.p${i}.example`] }));
  const own = Array.from({ length: CLIENT_RULES }, (_, i) => ({
    hosts: Array.from({ length: RULE_SETS }, (_, k) => `set:s${(i * RULE_SETS + k) % 64}`),
  }));
  const clients: ClientEntry[] = [{ name: "client-0", allow: own, inheritAllow: true, deny: own }];
  return makeDocument({ version: 2, policy: "bench/bounds", allow, deny: allow, hostSets, clients });
}

const view = (policy: PolicySet, i: number): PolicySet => viewOf(policy, { kind: "own", name: `client-${i}` })!;

/**
 * Clients: bytes of the document, milliseconds to load it, microseconds a decision with the addresses, and microseconds of
 * the slowest decision by name at the bounds of a policy.
 */
export function measureClients() {
  const text = encodeDocument(sharedSet());
  let policy = compile(readPolicy(text, { name: "clients" }).document);
  const loads = Array.from({ length: ROUNDS }, () =>
    timed(() => {
      policy = compile(readPolicy(text, { name: "clients" }).document);
    }),
  );
  const views = Array.from({ length: CLIENTS }, (_, i) => view(policy, i));
  const targets = Array.from(
    { length: TARGETS },
    (_, i) => parseAuthority(`${i % 2 === 0 ? `h${i}.customer-${i % 977}` : `unknown-${i}`}.example:443`)!,
  );
  let allowed = 0;
  const decide = () => {
    for (let i = 0; i < DECISIONS; i++) {
      const { verdict } = decideKnown(views[i % CLIENTS]!, targets[i % TARGETS]!, ["8.8.8.8"]);
      if (verdict === "allow") allowed++;
    }
  };
  const bounds = view(compile(atTheBounds()), 0);
  const deep = Array.from({ length: 8 }, (_, i) => parseAuthority(`b${i}.${"a.".repeat(100)}example:443`)!);
  const few = DECISIONS / 100;
  const worst = () => {
    for (let i = 0; i < few; i++) if (!("code" in decideName(bounds, deep[i % deep.length]!))) allowed++;
  };
  decide();
  worst();
  const median = (run: () => void, count: number) =>
    spread(Array.from({ length: ROUNDS }, () => (timed(run) * 1000) / count)).median;
  const result = { decisionUs: median(decide, DECISIONS), worstUs: median(worst, few) };
  if (allowed === 0) throw new Error("nothing was allowed");
  return { clients: CLIENTS, bytes: text.length, loadMs: spread(loads).median, ...result };
}
