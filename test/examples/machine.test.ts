import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parse } from "yaml";
import { imageConfig } from "../../bin/image/archive.ts";
import { variableOf } from "../../proxy/cli/options.ts";
import { PROXY_OPTIONS } from "../../proxy/config/config.ts";
import { startProxy, tempFolder } from "../harness/proxy.ts";

const ROOT = new URL("../..", import.meta.url).pathname;
const unit = readFileSync(join(ROOT, "examples/systemd/outrider@.service"), "utf8");
const compose = parse(readFileSync(join(ROOT, "examples/docker/compose.yaml"), "utf8"), { merge: true });
const known = PROXY_OPTIONS.map((option) => variableOf(option.name));
const withoutAnalyze = spawnSync("systemd-analyze", ["--version"]).error !== undefined;

/**
 * Starts two processes with the variables of an example, on one free port; policy and admin port of the example are
 * replaced.
 */
async function startTwo(environments: readonly Record<string, string>[]): Promise<void> {
  for (const environment of environments) {
    for (const name of Object.keys(environment)) assert.ok(known.includes(name), `${name} is no option`);
  }
  const policyFile = join(ROOT, "examples/acl.yaml");
  const env = { ...environments[0]!, PROXY_PASSWORD: "s3cret" };
  const first = await startProxy({ policyFile, env });
  const second = await startProxy({ policyFile, env, listen: `127.0.0.1:${first.port}` });
  for (const proxy of [first, second]) {
    assert.equal((await proxy.admin("/readyz")).status, 200);
    assert.equal(await proxy.stop(), 0);
  }
}

test("examples/systemd: systemd accepts the unit", {
  skip: withoutAnalyze && "needs systemd-analyze (Debian: systemd)",
}, () => {
  const folder = tempFolder();
  const file = join(folder, "outrider@1.service");
  writeFileSync(file, unit.replaceAll("/opt/outrider/", ROOT));
  const result = spawnSync("systemd-analyze", ["verify", "--man=no", "--recursive-errors=no", file], {
    encoding: "utf8",
  });
  assert.equal(result.status, 0, result.stderr);
  assert.equal(result.stderr, "");
});

test("examples/systemd: two instances with its variables share a port", async () => {
  const variables = [...unit.matchAll(/^Environment=(\w+)=(.*)$/gm)].map((match) => [match[1]!, match[2]!] as const);
  assert.match(unit, /^ExecStart=\/opt\/outrider\/bin\/outrider proxy$/m);
  assert.ok(variables.some(([name, value]) => name === "OUTRIDER_ADMIN" && value === "127.0.0.1:975%i"));
  await startTwo([Object.fromEntries(variables)]);
});

test("examples/docker: two services with its variables share a port", async () => {
  const environments = Object.values(compose.services).map((service) => {
    const { PROXY_PASSWORD: password, ...rest } = (service as { environment: Record<string, string> }).environment;
    assert.match(password!, /^\$\{PROXY_PASSWORD:\?/);
    return rest;
  });
  assert.equal(environments.length, 2);
  assert.notEqual(environments[0]!.OUTRIDER_ADMIN, environments[1]!.OUTRIDER_ADMIN);
  await startTwo(environments);
});

test("examples/docker: services restrict the container, and check what the image checks", () => {
  const { User, Healthcheck } = imageConfig();
  const seconds = (ns: number) => `${ns / 1e9}s`;
  const expected = {
    ...{ user: User, read_only: true, cap_drop: ["ALL"], security_opt: ["no-new-privileges:true"] },
    healthcheck: {
      test: Healthcheck.Test,
      interval: seconds(Healthcheck.Interval),
      timeout: seconds(Healthcheck.Timeout),
      start_period: seconds(Healthcheck.StartPeriod),
    },
  };
  // Keys of https://github.com/compose-spec/compose-spec/blob/main/05-services.md
  const others = "image build network_mode restart ulimits stop_grace_period volumes environment".split(" ");
  for (const service of Object.values<Record<string, unknown>>(compose.services)) {
    const picked = Object.fromEntries(Object.keys(expected).map((key) => [key, service[key]]));
    assert.deepEqual(picked, expected);
    assert.deepEqual(Object.keys(service).sort(), [...Object.keys(expected), ...others].sort());
  }
});
