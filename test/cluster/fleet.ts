import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { LABEL } from "../../operator/api/names.ts";
import type { ConfigMap } from "../../operator/api/objects.ts";
import type { KubeObject } from "../../operator/kube/resource.ts";
import { OUTRIDER } from "../harness/proxy.ts";
import type { ControlPlane } from "./control-plane.ts";
import { Program } from "./processes.ts";

/** A pod of a fleet, with what a kubelet needs of it. */
export interface FleetPod extends KubeObject {
  spec: {
    containers: {
      args: string[];
      env?: { name: string; value?: string; valueFrom?: { fieldRef?: { fieldPath: string } } }[];
      volumeMounts: { name: string; mountPath: string }[];
    }[];
    volumes: {
      name: string;
      configMap?: { name: string; items?: { key: string; path: string }[] };
      secret?: { secretName: string };
    }[];
  };
  status?: { phase?: string; podIP?: string; hostIP?: string };
}

/** How proxies are run besides what their pods say. */
export interface FleetOptions {
  /** Further arguments of a pod's proxy, such as `--allow-cidr`. */
  args?(pod: FleetPod): string[];
  /** A volume whose pod was not touched follows a change after so long (a kubelet: 60 to 90 s). */
  volumeMs?: number;
  /** Proxies that do not run, as if their image could not be pulled. */
  refuse?(pod: FleetPod): boolean;
}

interface Running {
  pod: FleetPod;
  program: Program;
  folder: string;
  /** Annotations at the last look, and when volumes were written. */
  annotations: string;
  writtenAt: number;
  volumes: string;
}

const LOOK_MS = 100;
const VOLUME_MS = 60_000;

/**
 * Does for proxy pods of simulated nodes what a kubelet does: runs the real program of each with the pod's own arguments,
 * environment and volumes. A pod's address is a loopback one, so the proxy really listens on it. Volumes follow their
 * ConfigMaps at once when an annotation of the pod changed, else slowly, through the `..data` link of a kubelet.
 */
export class FleetRunner {
  readonly #plane: ControlPlane;
  readonly #options: FleetOptions;
  readonly #folder = mkdtempSync(join(tmpdir(), "outrider-fleet-"));
  readonly #running = new Map<string, Running>();
  #stopped = false;
  #loop: Promise<void> | undefined;
  #error: Error | undefined;

  constructor(plane: ControlPlane, options: FleetOptions = {}) {
    this.#plane = plane;
    this.#options = options;
  }

  start(): void {
    this.#loop = this.#run();
  }

  /** Pods whose proxy runs. */
  get pods(): FleetPod[] {
    return [...this.#running.values()].filter(({ program }) => program.running).map(({ pod }) => pod);
  }

  /** The proxy of a pod. */
  program(pod: string): Program {
    const found = [...this.#running.values()].find((running) => running.pod.metadata.name === pod);
    if (found === undefined) throw new Error(`no proxy runs for pod ${pod}`);
    return found.program;
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#loop;
    for (const { program } of this.#running.values()) await program.stop();
    rmSync(this.#folder, { recursive: true, force: true });
    if (this.#error !== undefined) throw this.#error;
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      // The API server, or its etcd, may be down for a while, as tests want it: proxies run on.
      await this.#look().catch((error: Error) => {
        if (!/ECONN|socket hang up|: 5\d\d /.test(error.message)) this.#error ??= error;
      });
      await sleep(LOOK_MS);
    }
  }

  async #look(): Promise<void> {
    const path = `/api/v1/pods?labelSelector=${LABEL.fleet}`;
    const { items } = (await this.#plane.get<{ items: FleetPod[] }>(path))!;
    const seen = new Set(items.map(({ metadata }) => metadata.uid!));
    for (const [uid, running] of this.#running) {
      if (seen.has(uid)) continue;
      this.#running.delete(uid);
      running.program.signal("SIGTERM");
      void running.program.stop("SIGKILL").then(() => rmSync(running.folder, { recursive: true, force: true }));
    }
    for (const pod of items) {
      const running = this.#running.get(pod.metadata.uid!);
      if (running !== undefined) await this.#follow(running, pod);
      else if (pod.status?.podIP !== undefined && pod.metadata.deletionTimestamp === undefined) await this.#begin(pod);
    }
  }

  async #begin(pod: FleetPod): Promise<void> {
    if (this.#options.refuse?.(pod)) return;
    const folder = join(this.#folder, pod.metadata.uid!);
    const volumes = await this.#volumes(pod);
    if (volumes === undefined) return;
    this.#write(folder, volumes);
    const container = pod.spec.containers[0]!;
    const env: Record<string, string> = {};
    for (const { name, value, valueFrom } of container.env ?? []) {
      const field = valueFrom?.fieldRef?.fieldPath;
      const found =
        field === "status.hostIP" ? pod.status?.hostIP : field === "status.podIP" ? pod.status?.podIP : value;
      if (found === undefined) throw new Error(`${pod.metadata.name}: no value of ${name}`);
      env[name] = found;
    }
    const place = (text: string) => {
      let result = text.replace(/\$\((\w+)\)/g, (_, name: string) => env[name] ?? "");
      for (const mount of container.volumeMounts) result = result.replace(mount.mountPath, join(folder, mount.name));
      // In its pod the proxy has all addresses for itself; here it has the pod's.
      return result.replace(/^(--(?:listen|admin)=):/, `$1${pod.status!.podIP}:`);
    };
    const args = [...container.args.map(place), ...(this.#options.args?.(pod) ?? [])];
    const { PATH } = process.env;
    const log = join(this.#folder, `${pod.metadata.name}.log`);
    const program = new Program(pod.metadata.name, [OUTRIDER, ...args], log, { PATH, ...env });
    program.start();
    const annotations = JSON.stringify(pod.metadata.annotations);
    const now = Date.now();
    this.#running.set(pod.metadata.uid!, {
      pod,
      program,
      folder,
      annotations,
      writtenAt: now,
      volumes: JSON.stringify(volumes),
    });
  }

  async #follow(running: Running, pod: FleetPod): Promise<void> {
    running.pod = pod;
    const annotations = JSON.stringify(pod.metadata.annotations);
    const touched = annotations !== running.annotations;
    if (!touched && Date.now() - running.writtenAt < (this.#options.volumeMs ?? VOLUME_MS)) return;
    running.annotations = annotations;
    running.writtenAt = Date.now();
    const volumes = await this.#volumes(pod);
    if (volumes === undefined || JSON.stringify(volumes) === running.volumes) return;
    running.volumes = JSON.stringify(volumes);
    this.#write(running.folder, volumes);
  }

  /** Files by volume; undefined while something that a pod mounts is not there: a kubelet waits as well. */
  async #volumes(pod: FleetPod): Promise<Record<string, Record<string, string>> | undefined> {
    const namespace = `/api/v1/namespaces/${pod.metadata.namespace}`;
    const result: Record<string, Record<string, string>> = {};
    for (const volume of pod.spec.volumes) {
      if (volume.configMap !== undefined) {
        const found = await this.#plane.get<ConfigMap>(`${namespace}/configmaps/${volume.configMap.name}`);
        if (found === undefined) return undefined;
        const items = volume.configMap.items ?? Object.keys(found.data ?? {}).map((key) => ({ key, path: key }));
        if (items.some(({ key }) => found.data?.[key] === undefined)) return undefined;
        result[volume.name] = Object.fromEntries(items.map(({ key, path }) => [path, found.data![key]!]));
      } else if (volume.secret !== undefined) {
        type Secret = { data?: Record<string, string> };
        const found = await this.#plane.get<Secret>(`${namespace}/secrets/${volume.secret.secretName}`);
        if (found === undefined) return undefined;
        const decode = (text: string) => Buffer.from(text, "base64").toString("utf8");
        result[volume.name] = Object.fromEntries(
          Object.entries(found.data ?? {}).map(([key, text]) => [key, decode(text)]),
        );
      }
    }
    return result;
  }

  /** As the kubelet's atomic writer: a new folder, then the `..data` link moves to it. */
  #write(folder: string, volumes: Record<string, Record<string, string>>): void {
    for (const [name, files] of Object.entries(volumes)) {
      const mount = join(folder, name);
      const version = `..${process.hrtime.bigint()}`;
      mkdirSync(join(mount, version), { recursive: true });
      for (const [file, text] of Object.entries(files)) writeFileSync(join(mount, version, file), text);
      symlinkSync(version, join(mount, "..data_tmp"));
      renameSync(join(mount, "..data_tmp"), join(mount, "..data"));
      for (const file of Object.keys(files)) {
        try {
          symlinkSync(join("..data", file), join(mount, file));
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
        }
      }
    }
  }
}
