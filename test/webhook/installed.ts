import { readFileSync } from "node:fs";
import { parseAllDocuments } from "yaml";
import type { ControlPlane } from "../cluster/control-plane.ts";
import type { Operator } from "../operator/operator.ts";

const LIMIT_MS = 30_000;

/** Installs the webhook configuration that is shipped, with the operator's process in the place of its Service. */
export async function installWebhook(plane: ControlPlane, port: number): Promise<void> {
  const text = readFileSync(new URL("../../examples/operator/webhook.yaml", import.meta.url), "utf8");
  const documents = parseAllDocuments(text);
  for (const document of documents) {
    if (!`${document.get("kind")}`.endsWith("WebhookConfiguration")) continue;
    const path = document.getIn(["webhooks", 0, "clientConfig", "service", "path"]);
    document.setIn(["webhooks", 0, "clientConfig"], { url: `https://127.0.0.1:${port}${path}` });
  }
  await plane.applyYaml(documents.map(String).join("---\n"));
}

/** Waits until the API server trusts the operator's certificate: a pod that names no known policy is refused by it. */
export async function untilAdmitting(plane: ControlPlane, operator: Operator, namespace: string): Promise<void> {
  const pod = {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name: "probe", annotations: { "egress.outrider.dev/policy": "missing" } },
    spec: { containers: [{ name: "a", image: "a" }] },
  };
  for (const began = Date.now(); ; ) {
    const { body } = await plane.request<{ message?: string }>(
      "POST",
      `/api/v1/namespaces/${namespace}/pods?dryRun=All`,
      pod,
    );
    if (/denied the request/.test(body.message ?? "")) return;
    if (!operator.program.running) throw new Error(`the operator ended with ${operator.program.exitCode}`);
    if (Date.now() - began > LIMIT_MS) throw new Error(`no admission: ${body.message}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
