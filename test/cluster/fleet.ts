import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { LABEL } from "../../operator/api/names.ts";
import { OUTRIDER } from "../harness/proxy.ts";
import { type Container, containerArgs, type FleetPod, gatherEnv } from "./container.ts";
import { workFolder } from "./folder.ts";
import type { ControlPlane } from "./plane.ts";
import { inheritedEnv, Program } from "./processes.ts";
import { isReady, withReady } from "./readiness.ts";
import { gatherVolume, sameFiles, type VolumeFiles, writeVolume } from "./volumes.ts";

export type { FleetPod } from "./container.ts";

/** Program of a pod: a process, or an object of a test that plays one. */
export interface FleetProgram extends Pick<Program, "name" | "running" | "exitCode" | "tail" | "start"> {
  signal(signal: NodeJS.Signals): void;
  stop(): Promise<void>;
  /** Readiness of a played program. A process is asked by the probe of its pod. */
  readonly ready?: boolean;
}

/** Options for running proxies besides their pods. */
export interface FleetOptions {
  /** Plays the proxy of a pod in place of the real program. Volumes are in the folders that `args` name. */
  play?(pod: FleetPod, args: readonly string[]): FleetProgram;
  /** Additional arguments of a pod's proxy, such as `--allow-cidr`. They replace its own arguments of the same option. */
  args?(pod: FleetPod): string[];
  /** Additional variables of a pod's proxy. */
  env?(pod: FleetPod): Record<string, string>;
  /** Delay until a volume of an untouched pod follows a change (a kubelet: 60 to 90 s). */
  volumeMs?: number;
  /** Proxies that do not run, as if their image could not be pulled. */
  refuse?(pod: FleetPod): boolean;
}

interface Running {
  pod: FleetPod;
  program: FleetProgram;
  folder: string;
  /** Labels and annotations at the last check, and the time of the last check of its volumes. */
  touched: string;
  lookedAt: number;
  volumes: Record<string, VolumeFiles>;
  /** Time of its SIGTERM. */
  endingSince: number | undefined;
  /** When it was found to have ended by itself. */
  endedAt: number | undefined;
}

const LOOK_MS = 100;
const VOLUME_MS = 60_000;
const DEFAULT_GRACE_SECONDS = 30;
/** Delay before an ended container is restarted (a kubelet: 10 s at first). */
const RESTART_MS = 1000;

/** Changes that make a kubelet check a pod's volumes immediately: all except those of its status. */
const touchOf = ({ metadata }: FleetPod): string => JSON.stringify([metadata.labels, metadata.annotations]);

/**
 * Does for proxy pods of simulated nodes what a kubelet does: runs the real program of each with the pod's own
 * arguments, environment and volumes, and restarts it when it ends. A pod's address is a loopback one, so the proxy
 * really listens on it. Volumes follow their ConfigMaps immediately when labels or annotations of the pod changed, else
 * slowly. With `realProxies` a pod is ready when its proxy's /readyz succeeds, and is deleted when its proxy has ended.
 */
export class FleetRunner {
  readonly #plane: ControlPlane;
  readonly #options: FleetOptions;
  readonly #work = workFolder("outrider-fleet-");
  readonly #running = new Map<string, Running>();
  #stopped = false;
  /** Number of the complete readings of the pods. */
  #looks = 0;
  #loop: Promise<void> | undefined;
  #error: Error | undefined;

  constructor(plane: ControlPlane, options: FleetOptions = {}) {
    this.#plane = plane;
    this.#options = options;
  }

  start(): void {
    this.#loop = this.#run();
  }

  /** Pods with a running proxy. */
  get pods(): FleetPod[] {
    const alive = [...this.#running.values()].filter(
      ({ program, endingSince }) => program.running && endingSince === undefined,
    );
    return alive.map(({ pod }) => pod);
  }

  /** The same after another reading of the pods: without those that the API server terminates now. */
  async podsNow(): Promise<FleetPod[]> {
    // The reading that is under way may have begun before.
    for (const enough = this.#looks + 2; this.#looks < enough; ) await sleep(LOOK_MS / 4);
    return this.pods;
  }

  /** The proxy of a pod. */
  program(pod: string): Program {
    const found = [...this.#running.values()].find((running) => running.pod.metadata.name === pod);
    if (!(found?.program instanceof Program)) throw new Error(`no process runs for pod ${pod}`);
    return found.program;
  }

  /** Ends all proxies. @throws earlier errors, such as a pod that is not supported */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#loop;
    await Promise.all([...this.#running.values()].map(({ program }) => program.stop()));
    this.#work.clear();
    if (this.#error !== undefined) throw this.#error;
  }

  async #run(): Promise<void> {
    for (; !this.#stopped; await sleep(LOOK_MS)) {
      // Tests may stop the API server or its etcd for a while: proxies keep running.
      await this.#look().catch((error: Error) => {
        if (/ECONN|EPIPE|socket hang up|socket disconnected|: 5\d\d /.test(error.message)) return;
        if (this.#error === undefined) process.stderr.write(`fleet: ${error.stack}\n`);
        this.#error ??= error;
      });
      this.#looks++;
    }
  }

  async #look(): Promise<void> {
    const path = `/api/v1/pods?labelSelector=${LABEL.fleet}`;
    const { items } = (await this.#plane.get<{ items: FleetPod[] }>(path))!;
    const seen = new Map(items.map((pod) => [pod.metadata.uid!, pod]));
    for (const [uid, running] of this.#running) {
      const pod = seen.get(uid);
      if (pod === undefined || pod.metadata.deletionTimestamp !== undefined) await this.#end(uid, running, pod);
    }
    await Promise.all(
      items.map(async (pod) => {
        const running = this.#running.get(pod.metadata.uid!);
        if (pod.metadata.deletionTimestamp !== undefined) {
          if (running === undefined) await this.#forget(pod);
          return;
        }
        if (running !== undefined) await this.#follow(running, pod);
        else if (pod.status?.podIP !== undefined && pod.status.phase === "Running") await this.#begin(pod);
      }),
    );
  }

  /** SIGTERM, then SIGKILL after the grace period; deletes the pod when the proxy has ended. */
  async #end(uid: string, running: Running, pod: FleetPod | undefined): Promise<void> {
    const { program, folder } = running;
    if (running.endingSince === undefined) {
      running.endingSince = Date.now();
      program.signal("SIGTERM");
    }
    const grace = (running.pod.spec.terminationGracePeriodSeconds ?? DEFAULT_GRACE_SECONDS) * 1000;
    if (program.running && Date.now() - running.endingSince > grace) program.signal("SIGKILL");
    if (program.running) return;
    this.#running.delete(uid);
    rmSync(folder, { recursive: true, force: true });
    if (pod !== undefined) await this.#forget(pod);
  }

  /** A pod without a process: without a kubelet no component would delete it. */
  async #forget(pod: FleetPod): Promise<void> {
    if (!this.#plane.realProxies) return;
    const preconditions = { uid: pod.metadata.uid };
    const body = { apiVersion: "v1", kind: "DeleteOptions", gracePeriodSeconds: 0, preconditions };
    await this.#send("DELETE", pod, "", body);
  }

  async #begin(pod: FleetPod): Promise<void> {
    if (this.#options.refuse?.(pod)) return;
    // kwok releases the address of a pod as soon as it is deleted, while its proxy may still drain.
    const address = pod.status!.podIP;
    const hostNetwork = address === pod.status!.hostIP;
    const holder = [...this.#running.values()].find((one) => one.pod.status!.podIP === address);
    if (holder?.endingSince !== undefined && !hostNetwork) {
      holder.program.signal("SIGKILL");
      return;
    }
    const container = pod.spec.containers[0]!;
    const [volumes, env] = await Promise.all([this.#volumes(pod), gatherEnv(this.#plane, pod, container)]);
    if (volumes === undefined || env === undefined) return;
    const folder = join(this.#work.path, pod.metadata.uid!);
    mkdirSync(folder);
    for (const [name, files] of Object.entries(volumes)) writeVolume(join(folder, name), files);
    const program = this.#program(pod, container, env, folder);
    program.start();
    this.#running.set(pod.metadata.uid!, {
      pod,
      program,
      folder,
      touched: touchOf(pod),
      lookedAt: Date.now(),
      volumes,
      endingSince: undefined,
      endedAt: undefined,
    });
  }

  #program(pod: FleetPod, container: Container, env: Record<string, string>, folder: string): FleetProgram {
    const more = this.#options.args?.(pod) ?? [];
    const optionOf = (arg: string) => arg.split("=")[0];
    const replaced = new Set(more.map(optionOf));
    const own = containerArgs(pod, container, env, folder).filter((arg) => !replaced.has(optionOf(arg)));
    const args = [...own, ...more];
    const played = this.#options.play?.(pod, args);
    if (played !== undefined) return played;
    const log = join(this.#work.path, `${pod.metadata.name}.log`);
    return new Program(pod.metadata.name, [OUTRIDER, ...args], log, {
      ...inheritedEnv(),
      ...env,
      ...this.#options.env?.(pod),
    });
  }

  async #follow(running: Running, pod: FleetPod): Promise<void> {
    running.pod = pod;
    this.#revive(running);
    if (this.#plane.realProxies) await this.#tellReadiness(running);
    const touched = touchOf(pod);
    const slow = Date.now() - running.lookedAt >= (this.#options.volumeMs ?? VOLUME_MS);
    if (touched === running.touched && !slow) return;
    running.touched = touched;
    running.lookedAt = Date.now();
    const volumes = await this.#volumes(pod);
    if (volumes === undefined) return;
    for (const [name, files] of Object.entries(volumes)) {
      if (!sameFiles(files, running.volumes[name]!)) writeVolume(join(running.folder, name), files);
    }
    running.volumes = volumes;
  }

  /** Restarts a proxy that ended by itself or by a test, and logs it: a used port shows up here. */
  #revive(running: Running): void {
    const { program } = running;
    if (program.running) return;
    if (running.endedAt === undefined) {
      running.endedAt = Date.now();
      const how = program.exitCode === null ? "a signal" : `exit status ${program.exitCode}`;
      process.stderr.write(`fleet: the proxy of pod ${program.name} ended with ${how}: ${program.tail}\n`);
    }
    if (Date.now() - running.endedAt < RESTART_MS) return;
    running.endedAt = undefined;
    program.start();
  }

  async #tellReadiness({ pod, program }: Running): Promise<void> {
    const ready = program.running && (program.ready ?? (await isReady(pod)));
    const status = withReady(pod, ready, new Date().toISOString());
    if (status === undefined) return;
    await this.#send("PATCH", pod, "/status", { status });
  }

  /** Writes a pod. It may be deleted or replaced by now: the next poll will find out. */
  async #send(method: string, pod: FleetPod, part: string, body: object): Promise<void> {
    const path = `/api/v1/namespaces/${pod.metadata.namespace}/pods/${pod.metadata.name}${part}`;
    const type = method === "PATCH" ? "application/strategic-merge-patch+json" : "application/json";
    const answer = await this.#plane.request(method, path, body, { "content-type": type });
    if ([200, 404, 409].includes(answer.status)) return;
    throw new Error(`${method} ${path}: ${answer.status} ${JSON.stringify(answer.body)}`);
  }

  /** Files by volume; undefined while a mounted object is missing. */
  async #volumes(pod: FleetPod): Promise<Record<string, VolumeFiles> | undefined> {
    const result: Record<string, VolumeFiles> = {};
    for (const volume of pod.spec.volumes ?? []) {
      const files = await gatherVolume(this.#plane, pod.metadata.namespace!, volume);
      if (files === undefined) return undefined;
      result[volume.name] = files;
    }
    return result;
  }
}
