/** Pure modules that Stryker mutates, and the tests of each. These tests start no process. */

export interface Module {
  /** The mutated source, from the root of the repository. */
  source: string;
  /** Test files in the order in which they run, as few as possible. The first failure ends the run of a mutant. */
  tests: readonly string[];
}

/** Folders with a required score, in percent. The longest folder that contains a module counts. */
export const REQUIRED: Readonly<Record<string, number>> = {
  "proxy/policy": 90,
  "proxy/http": 90,
  "operator/reconcile/decision": 85,
  "operator/reconcile/placement": 85,
  "operator/injection": 85,
};

const policy = (...names: string[]) => names.map((name) => `test/policy/${name}.test.ts`);
const operator = (...names: string[]) => names.map((name) => `test/operator/${name}.test.ts`);
const http = (...names: string[]) => names.map((name) => `test/proxy/${name}.test.ts`);

const READER = policy("document", "clients", "engine", "acl", "acl-clients", "parse", "schema");
const PLACEMENT = operator("placement", "explain-unplaced", "network-policies", "golden", "disturbances");
const INJECTION = ["values", "golden", "inject"].map((name) => `test/injection/${name}.test.ts`);

const all = (folder: string, names: string, tests: readonly string[]): Module[] =>
  names.split(" ").map((name) => ({ source: `${folder}/${name}.ts`, tests }));

export const MODULES: readonly Module[] = [
  { source: "proxy/policy/cidr.ts", tests: policy("cidr", "embedded") },
  ...all("proxy/policy", "host target", policy("host", "target", "target-problem")),
  { source: "proxy/policy/target-problem.ts", tests: policy("target-problem") },
  { source: "proxy/policy/special.ts", tests: policy("special", "special-purpose", "embedded") },
  { source: "proxy/policy/explain.ts", tests: policy("explain", "sent-names") },
  { source: "proxy/policy/upstream-proxy.ts", tests: policy("document") },
  {
    source: "proxy/policy/engine.ts",
    tests: policy("reasons", "engine", "views", "explain", "embedded", "sent-names", "engine.property"),
  },
  { source: "proxy/policy/rules.ts", tests: [...READER, ...policy("engine.property")] },
  ...all("proxy/policy", "clients client-warnings", policy("clients", "acl-clients", "schema", "views")),
  { source: "proxy/policy/smokescreen.ts", tests: policy("smokescreen") },
  ...all("proxy/policy", "acl acl-lint document", READER),
  { source: "proxy/policy/policy-file.ts", tests: policy("document", "acl", "acl-clients", "parse") },
  { source: "proxy/policy/parse.ts", tests: policy("parse", "document", "acl") },
  ...all("proxy/http", "head request-line other-protocols", http("head-values", "head")),
  { source: "proxy/http/body.ts", tests: http("body") },
  { source: "proxy/http/held.ts", tests: http("held") },
  { source: "proxy/http/fields.ts", tests: http("fields") },
  { source: "proxy/http/structured-fields.ts", tests: http("structured-fields") },
  { source: "proxy/http/trace.ts", tests: http("trace-ids") },
  { source: "proxy/connections/proxy-header.ts", tests: http("proxy-header") },
  { source: "proxy/connections/rates.ts", tests: http("rates") },
  { source: "proxy/outcome/client-counts.ts", tests: http("client-counts") },
  { source: "proxy/outcome/minutes.ts", tests: http("minutes") },
  ...all("operator/reconcile/decision", "accept ownership", operator("accept", "ownership")),
  ...all("operator/reconcile/decision", "decide desire", operator("accept", "desire", "disturbances", "golden")),
  ...all(
    "operator/reconcile/decision",
    "disturbances waits",
    operator("disturbances", "handover", "golden", "disturbances.property"),
  ),
  ...all("operator/reconcile/decision", "document handover", operator("accept", "handover", "disturbances", "golden")),
  ...all("operator/reconcile/decision", "down-slots", operator("down-slots", "disturbances")),
  ...all(
    "operator/reconcile/decision",
    "pod-labels serving",
    operator("pod-labels", "desire", "down-slots", "disturbances"),
  ),
  ...all("operator/reconcile/decision", "published-ips", operator("published-ips", "desire", "golden")),
  ...all(
    "operator/reconcile/decision",
    "resolved-spec units",
    operator("desire", "down-slots", "disturbances", "golden"),
  ),
  ...all("operator/reconcile/placement", "explain-unplaced nodes placement", PLACEMENT),
  ...all("operator/injection", "arguments coverage env exclusions inject java pod presets", INJECTION),
  ...all("operator/injection", "sidecars variables warnings", INJECTION),
];
