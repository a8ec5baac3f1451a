import type { Schema } from "./schema.ts";

/** Objects that get an interface of their own, possibly the same one. Others are written in place. */
const NAMES: Readonly<Record<string, string>> = {
  spec: "EgressPolicySpec",
  "spec.allow[]": "AllowRuleSpec",
  "spec.deny[]": "DenyRuleSpec",
  "spec.hostSets[]": "HostSetSpec",
  "spec.clients[]": "ClientSpec",
  "spec.clients[].allow[]": "ClientRuleSpec",
  "spec.clients[].deny[]": "ClientRuleSpec",
  "spec.clients[].upstreamProxies[]": "ClientRuleSpec",
  "spec.injection": "InjectionSpec",
  "spec.staticIPs[]": "StaticIPSpec",
  "spec.nat": "NatSpec",
  "spec.upstreamProxy": "UpstreamProxySpec",
  "spec.verification": "VerificationSpec",
  "spec.authentication": "AuthenticationSpec",
  "spec.proxy": "ProxySpec",
  "spec.proxy.tls": "ProxyTlsSpec",
  "spec.proxy.tls.clientCA": "FileSource",
  "spec.proxy.tls.crl": "FileSource",
  "spec.proxy.external": "ProxyExternalSpec",
  "spec.proxy.resources": "ResourceRequirements",
  "spec.proxy.affinity": "Affinity",
  "spec.proxy.topologySpreadConstraints[]": "TopologySpreadConstraint",
  "spec.proxy.tolerations[]": "Toleration",
  "spec.networkPolicy": "NetworkPolicySpec",
  "spec.networkPolicy.additionalEgress[]": "NetworkPolicyEgressRule",
  status: "EgressPolicyStatus",
  "status.conditions[]": "Condition",
  "status.staticIPs[]": "StaticIPStatus",
};

const HEAD = `// Generated from crds/egresspolicies.yaml by \`make generate\`: change that file.
// A field with a default in the schema is not optional: the API server sets it in every present parent.
import type { KubeObject } from "../kube/resource.ts";
`;

/** Where comments are wrapped: inside of the formatter's line width, with room for the indentation. */
const COMMENT_WIDTH = 108;

function wrap(text: string): string[] {
  const lines: string[] = [];
  for (const word of text.split(/\s+/)) {
    const last = lines.at(-1);
    if (last === undefined || last.length + 1 + word.length > COMMENT_WIDTH) lines.push(word);
    else lines[lines.length - 1] = `${last} ${word}`;
  }
  return lines;
}

function comment(schema: Schema): string {
  const text = schema.description === undefined ? [] : wrap(schema.description);
  if (schema.default !== undefined) text.push(`@default ${JSON.stringify(schema.default)}`);
  if (text.length === 0) return "";
  return text.length === 1 ? `/** ${text[0]} */\n` : `/**\n${text.map((line) => ` * ${line}\n`).join("")} */\n`;
}

/** TypeScript types of the schema, not yet formatted. */
export function typesOf(root: Schema): string {
  const interfaces: string[] = [];
  const used = new Set<string>();
  const written = new Set<string>();

  function members(schema: Schema, path: string): string {
    const entries = Object.entries(schema.properties ?? {}).map(([name, node]) => {
      const always = schema.required?.includes(name) || node.default !== undefined;
      return `${comment(node)}${name}${always ? "" : "?"}: ${typeOf(node, path === "" ? name : `${path}.${name}`)};\n`;
    });
    return `{\n${entries.join("\n")}}`;
  }

  function typeOf(schema: Schema, path: string): string {
    if (schema["x-kubernetes-int-or-string"]) return "number | string";
    if (schema.enum !== undefined) return schema.enum.map((word) => JSON.stringify(word)).join(" | ");
    if (schema.type === "boolean") return "boolean";
    if (schema.type === "integer") return "number";
    if (schema.type === "string") return "string";
    if (schema.items !== undefined) {
      const item = typeOf(schema.items, `${path}[]`);
      return item.includes("|") || item.startsWith("{") ? `Array<${item}>` : `${item}[]`;
    }
    if (schema.additionalProperties !== undefined) {
      return `Record<string, ${typeOf(schema.additionalProperties, `${path}{}`)}>`;
    }
    const name = NAMES[path];
    if (name === undefined) return members(schema, path);
    used.add(path);
    if (written.has(name)) return name;
    written.add(name);
    const at = interfaces.length;
    interfaces.push("");
    interfaces[at] = `${comment(schema)}export interface ${name} ${members(schema, path)}\n`;
    return name;
  }

  const { spec, status } = root.properties ?? {};
  if (spec === undefined || status === undefined) throw new Error("the schema has no spec or no status");
  const whole = `${comment(root)}export interface EgressPolicy extends KubeObject {\n  spec: ${typeOf(spec, "spec")};\n  status?: ${typeOf(status, "status")};\n}\n`;
  for (const path of Object.keys(NAMES)) {
    if (!used.has(path)) throw new Error(`crds/types.ts names ${path}, which is no object of the schema`);
  }
  return [HEAD, whole, ...interfaces].join("\n");
}
