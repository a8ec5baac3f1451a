import assert from "node:assert/strict";
import { type ControlPlane, startControlPlane } from "../cluster/control-plane.ts";
import { fastClock } from "../operator/kube/clocks.ts";
import { type Balancer, startBalancer } from "./balancer.ts";
import {
  CONFIGURATION_PATH,
  createPod,
  installWebhook,
  makeSenders,
  operatorConfig,
  podOf,
  proxyOf,
  type Replica,
  type ReplicaOptions,
  SECRET_PATH,
  startReplica,
  until,
} from "./shared.ts";

/** Speed-up of the webhook's waits: it checks every 3 s, and drains within 1.5 s. */
const SPEED = 10;
const ADMITTED_MS = 30_000;

/** Fields of the webhook configuration that the tests read. */
export interface Configuration {
  metadata: { managedFields: { manager: string; fieldsV1: object }[] };
  webhooks: { name: string; clientConfig: { caBundle?: string } }[];
}

/** Fields of the Secret that the tests read. */
export interface Secret {
  metadata: { uid: string; ownerReferences?: { kind: string; name: string }[] };
  data: Record<string, string>;
}

/** The proxy of pods of namespace `convoy`. */
export const PROXY = "http://webhooks-egress.convoy.svc.cluster.local.:4750";

export const countOf = (pem: string): number => pem.split("BEGIN CERTIFICATE").length - 1;

/** A real API server that calls a webhook behind a balancer, and senders in namespace `convoy`. */
export class Stage {
  readonly plane: ControlPlane;
  readonly balancer: Balancer;
  /** The kubeconfig of the operator's ServiceAccount. */
  readonly config: string;
  readonly #running = new Set<Replica>();

  constructor(plane: ControlPlane, balancer: Balancer, config: string) {
    this.plane = plane;
    this.balancer = balancer;
    this.config = config;
  }

  /** A replica beside the balancer; it ends with the stage at the latest. */
  async start(options: Omit<ReplicaOptions, "config">): Promise<Replica> {
    const replica = await startReplica({ clock: fastClock(SPEED), ...options, config: this.config });
    this.#running.add(replica);
    return replica;
  }

  async end(replica: Replica): Promise<void> {
    this.balancer.endpoints.delete(replica.port);
    this.#running.delete(replica);
    await replica.stop();
  }

  /** Runs with replicas behind the balancer, once pods are admitted through them. */
  async withReplicas(
    options: readonly Omit<ReplicaOptions, "config">[],
    run: (...all: Replica[]) => Promise<void>,
  ): Promise<void> {
    const all = await Promise.all(options.map((one) => this.start(one)));
    try {
      for (const one of all) await until("a certificate", () => one.ready);
      for (const { port } of all) this.balancer.endpoints.add(port);
      await this.untilAdmitted();
      await run(...all);
    } finally {
      // Also after a failure: what is left would keep certificates on behalf of the next test.
      for (const one of all) await this.end(one);
    }
  }

  /** Waits until a pod that opted in would be created; fails with why not. `reset`: each try over a new connection. */
  async untilAdmitted(reset = false): Promise<void> {
    for (const began = Date.now(); ; await new Promise((resolve) => setTimeout(resolve, 50))) {
      if (reset) this.balancer.reset();
      const answer = await createPod(this.plane, "convoy", podOf("probe", { label: "webhooks" }), "?dryRun=All");
      if (proxyOf(answer) === PROXY) return;
      assert.ok(Date.now() - began < ADMITTED_MS, `not admitted: ${answer.status} ${answer.body.message}`);
    }
  }

  /** CA certificates that the API server trusts, as PEM. */
  async bundle(): Promise<string> {
    const found = await this.plane.get<Configuration>(CONFIGURATION_PATH);
    return Buffer.from(found!.webhooks[0]!.clientConfig.caBundle ?? "", "base64").toString();
  }

  /** Writes caBundle (base64) as another manager. */
  async setBundle(value: string): Promise<void> {
    const patch = [{ op: "replace", path: "/webhooks/0/clientConfig/caBundle", value }];
    const type = { "content-type": "application/json-patch+json" };
    const { status, body } = await this.plane.request("PATCH", CONFIGURATION_PATH, patch, type);
    assert.equal(status, 200, JSON.stringify(body));
  }

  /** A key of the Secret; empty where there is none. */
  async secretText(key: string): Promise<string> {
    return Buffer.from((await this.plane.get<Secret>(SECRET_PATH))?.data[key] ?? "", "base64").toString();
  }

  async stop(): Promise<void> {
    for (const one of this.#running) await one.stop();
    await this.balancer.close();
    await this.plane.stop();
  }
}

export async function startStage(): Promise<Stage> {
  const plane = await startControlPlane({ controllers: true });
  const balancer = await startBalancer();
  await installWebhook(plane, balancer.port);
  const config = await operatorConfig(plane);
  await makeSenders(plane, "convoy");
  return new Stage(plane, balancer, config);
}
