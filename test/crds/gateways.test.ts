import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { CRD_FILE } from "../../crds/schema.ts";
import { hashDocument } from "../../proxy/policy/document.ts";
import { readManifest } from "../../proxy/policy/policy-file.ts";
import { BOOT, type ControlPlane, controlPlaneMissing, startControlPlane } from "../cluster/control-plane.ts";
import { findTool, toolsMissing } from "../cluster/tools.ts";
import { withDefaults } from "../harness/defaults.ts";
import { crdOf, GATEWAY_EXAMPLES, type GatewayExample, type GatewayObject, readObjects } from "./gateway-examples.ts";

/**
 * Examples of gateways on a real API server with the real CRDs of the gateways. The CRD of Cilium comes from its Go
 * module. `GATEWAY_CRDS` names a folder with the CRD files of the others.
 */

const FOLDER = process.env.GATEWAY_CRDS || undefined;
const CRDS_MISSING = "needs the CRDs of OVN-Kubernetes, Antrea and AKS: name a folder with their files in GATEWAY_CRDS";
const planeMissing = controlPlaneMissing();
const skip = planeMissing ?? false;
let plane: ControlPlane;

/** Sources of the CRDs that an example needs. */
const sourcesOf = ({ objects }: GatewayExample): string[] => objects.flatMap((object) => crdOf(object)?.from ?? []);

/** Why an example cannot be applied here. */
function missing(example: GatewayExample): string | false {
  const sources = sourcesOf(example);
  if (sources.includes("folder") && FOLDER === undefined) return CRDS_MISSING;
  const module = sources.includes("module") ? toolsMissing(["cilium-crd"]) : null;
  return planeMissing ?? module ?? false;
}

const good = (answer: Awaited<ReturnType<ControlPlane["kubectl"]>>): string => {
  assert.equal(answer.status, 0, answer.stderr);
  assert.equal(answer.stderr, "");
  return answer.stdout;
};
const apply = (object: object, ...args: string[]) =>
  plane.kubectl(["apply", "--server-side", "--validate=strict", ...args, "-f", "-"], JSON.stringify(object));

/** The file of a CRD in the folder of the user. @throws if no file has it */
function fileInFolder(crd: string): string {
  const files = globSync("*.{yaml,yml}", { cwd: FOLDER! }).map((name) => join(FOLDER!, name));
  const found = files.find((file) =>
    readObjects(readFileSync(file, "utf8")).some(({ metadata }) => metadata?.name === crd),
  );
  assert.ok(found !== undefined, `GATEWAY_CRDS: no file of ${FOLDER} has the CRD ${crd}`);
  return found;
}

async function install(file: string, crd: string): Promise<void> {
  const installed = await plane.kubectl(["apply", "--server-side", "-f", file]);
  assert.equal(installed.status, 0, installed.stderr);
  good(await plane.kubectl(["wait", "--for=condition=Established", "--timeout=30s", `crd/${crd}`]));
}

async function installCRDs({ objects }: GatewayExample): Promise<void> {
  for (const { crd, from } of objects.map((object) => crdOf(object)!)) {
    await install(from === "module" ? await findTool("cilium-crd") : fileInFolder(crd), crd);
  }
}

/** Keys that are names of users, not of the schema. */
const OWN_KEYS = ["matchLabels"];

/** Copies of a spec, each with another field renamed, by the path of the field. */
function renamed(value: unknown, path = "spec"): [string, unknown][] {
  if (Array.isArray(value)) {
    return value.flatMap((item, i) =>
      renamed(item, `${path}[${i}]`).map(([at, copy]): [string, unknown] => [at, value.with(i, copy)]),
    );
  }
  if (typeof value !== "object" || value === null) return [];
  return Object.entries(value).flatMap(([key, inner]): [string, unknown][] => {
    const { [key]: _, ...rest } = value as Record<string, unknown>;
    const deeper = OWN_KEYS.includes(key) ? [] : renamed(inner, `${path}.${key}`);
    return [
      [`${path}.${key}`, { ...rest, [`${key}Renamed`]: inner }],
      ...deeper.map(([at, copy]): [string, unknown] => [at, { ...value, [key]: copy }]),
    ];
  });
}

/** The object as the API server stored it. */
async function stored({ kind, apiVersion, metadata }: GatewayObject): Promise<GatewayObject> {
  const [group] = apiVersion!.split("/");
  const namespace = metadata.namespace === undefined ? [] : ["-n", metadata.namespace];
  return JSON.parse(good(await plane.kubectl(["get", `${kind}.${group}`, metadata.name!, ...namespace, "-o", "json"])));
}

before(async () => {
  if (skip) return;
  plane = await startControlPlane();
  await install(CRD_FILE.pathname, "egresspolicies.egress.outrider.dev");
  for (const name of new Set(GATEWAY_EXAMPLES.map(({ policy }) => policy.metadata.namespace!))) {
    good(await plane.kubectl(["create", "namespace", name]));
  }
}, BOOT);
after(async () => {
  if (!skip) await plane.stop();
});

for (const { file, policy } of GATEWAY_EXAMPLES) {
  test(`the policy of ${file} is valid for proxy and operator`, { skip }, async () => {
    good(await apply(policy));
    const { document } = readManifest(await stored(policy as unknown as GatewayObject));
    const own = readManifest({ ...policy, spec: withDefaults(policy.spec) });
    assert.equal(hashDocument(document), hashDocument(own.document));
    good(await plane.kubectl(["delete", "egpol", policy.metadata.name!, "-n", policy.metadata.namespace!]));
  });
}

/** A CRD with the names of Antrea's and Coil's Egress. */
const EGRESS = {
  apiVersion: "apiextensions.k8s.io/v1",
  kind: "CustomResourceDefinition",
  metadata: { name: "egresses.example.test" },
  spec: {
    group: "example.test",
    scope: "Cluster",
    names: { kind: "Egress", plural: "egresses", singular: "egress" },
    versions: [{ name: "v1", served: true, storage: true, schema: { openAPIV3Schema: { type: "object" } } }],
  },
};

test("kubectl get egress shows the objects of a gateway", { skip }, async () => {
  good(await apply(EGRESS));
  good(await plane.kubectl(["wait", "--for=condition=Established", "--timeout=30s", "crd/egresses.example.test"]));
  good(await apply({ apiVersion: "example.test/v1", kind: "Egress", metadata: { name: "of-a-gateway" } }));
  const found = await plane.kubectl(["get", "egress", "of-a-gateway", "-o", "name"]);
  assert.equal(good(found), "egress.example.test/of-a-gateway\n");
  good(await plane.kubectl(["delete", "crd", "egresses.example.test"]));
});

for (const example of GATEWAY_EXAMPLES.filter((one) => sourcesOf(one).length > 0)) {
  test(`${example.file} applies to the CRD of its gateway`, { skip: missing(example) }, async (t) => {
    await installCRDs(example);
    let fields = 0;
    for (const object of example.objects) {
      good(await apply(object));
      const { spec } = await stored(object);
      for (const [key, value] of Object.entries(object.spec)) assert.deepEqual(spec[key], value, key);
      for (const [path, copy] of renamed(object.spec)) {
        const { status, stderr } = await apply({ ...object, spec: copy }, "--dry-run=server");
        assert.equal(status, 1, `the API server accepts ${object.kind} without a field ${path}`);
        assert.match(stderr, /field not declared in schema|unknown field|Required value|is required/, path);
        fields++;
      }
    }
    assert.ok(fields > 3);
    t.diagnostic(`${fields} renamed fields are rejected`);
  });
}
