import { compile, decideKnown, decideName } from "../../proxy/policy/engine.ts";
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
