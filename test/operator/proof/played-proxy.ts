import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer, type Server, type ServerResponse } from "node:http";
import { routesOf } from "../../../proxy/egress/verifier.ts";
import { type PolicyDocument, readDocument } from "../../../proxy/policy/document.ts";
import type { FleetPod, FleetProgram } from "../../cluster/fleet.ts";

/** How the played proxies and their surroundings behave. A scenario changes it while proxies run. */
export interface Behaviour {
  /** Milliseconds from SIGTERM to the end. */
  drainMs: number;
  /** Milliseconds from a new expected address to its proof. */
  proofMs: number;
  /** Milliseconds from the readiness of a pod until its node has the address that follows it. */
  moveMs: number;
  /** Milliseconds before `/status` answers. */
  statusMs: number;
  /** Whether `/status` of a pod cannot be reached. */
  silent(pod: FleetPod): boolean;
  /** Whether a node has an address that does not follow pods. */
  has(node: string, address: string): boolean;
}

/** The address of a listener such as `--admin=127.0.0.1:9750` or `--admin=[::1]:9750`. */
function listenerOf(args: readonly string[], option: string): { host: string; port: number } {
  const text = optionOf(args, option) ?? "";
  const [, six, four, port] = /^(?:\[(.+)\]|([^:]+)):(\d+)$/.exec(text) ?? [];
  if (port === undefined) throw new Error(`--${option}=${text} is no address`);
  return { host: (six ?? four)!, port: Number(port) };
}

function optionOf(args: readonly string[], option: string): string | undefined {
  const prefix = `--${option}=`;
  return args.find((arg) => arg.startsWith(prefix))?.slice(prefix.length);
}

const LISTEN_AGAIN_MS = 100;

/**
 * Plays a proxy for the operator: it loads the policy file of its pod, binds its source when its node has it, proves its
 * addresses, serves `/status`, and drains at SIGTERM. It carries no traffic.
 */
export class PlayedProxy implements FleetProgram {
  readonly name: string;
  readonly pod: FleetPod;
  readonly exitCode = null;
  readonly tail = "";
  /** The address that it binds; undefined: the machine chooses. */
  readonly source: string | undefined;
  readonly #args: readonly string[];
  readonly #how: Behaviour;
  #server: Server | undefined;
  #running = false;
  #draining = false;
  #readySince: number | undefined;
  /** When each egress path got the expected addresses that it has now. */
  readonly #expected = new Map<string, { text: string; since: number }>();
  /** The static IP of its source, by the last document that uses it. */
  #mapped: string | undefined;
  #text = "";
  #document: { document: PolicyDocument; hash: string } | undefined;

  constructor(pod: FleetPod, args: readonly string[], how: Behaviour) {
    this.name = pod.metadata.name;
    this.pod = pod;
    this.source = optionOf(args, "source-address");
    this.#args = args;
    this.#how = how;
  }

  get running(): boolean {
    return this.#running;
  }

  start(): void {
    this.#running = true;
    this.#listen();
  }

  signal(signal: NodeJS.Signals): void {
    if (signal === "SIGKILL") this.#end();
    else if (!this.#draining) {
      this.#draining = true;
      setTimeout(() => this.#end(), this.#how.drainMs);
    }
  }

  stop(): Promise<void> {
    this.#end();
    return Promise.resolve();
  }

  /** Answer of `/readyz`. */
  get ready(): boolean {
    const ready =
      this.#running &&
      !this.#draining &&
      this.#load() !== undefined &&
      (optionOf(this.#args, "readiness") === "policy" || this.open);
    this.#readySince = ready ? (this.#readySince ?? Date.now()) : undefined;
    return ready;
  }

  /** Whether its gate is open: source bound and addresses proven. */
  get open(): boolean {
    const loaded = this.#load();
    if (loaded === undefined || !this.#assigned()) return false;
    const { verification } = loaded.document;
    return (
      verification === undefined ||
      verification.onUnverified === "Allow" ||
      this.#proofs().every(({ verified }) => verified)
    );
  }

  /** Static IPs from which its requests may leave. Empty: the policy has none. */
  get sends(): string[] {
    const loaded = this.#load();
    if (!this.#running || loaded === undefined) return [];
    const known = loaded.document.staticIPs;
    if (this.source !== undefined) {
      const own = known.filter(({ address, sourceAddress }) => (sourceAddress ?? address) === this.source);
      // A router maps the source still, also when the document has lost it. It maps a Pending address later.
      this.#mapped = own.find(({ phase }) => phase !== "Pending")?.address ?? this.#mapped ?? own[0]?.address;
      return this.#mapped === undefined ? [] : [this.#mapped];
    }
    return known.filter(({ phase }) => phase !== "Pending").map(({ address }) => address);
  }

  #end(): void {
    this.#running = false;
    this.#server?.close();
    this.#server?.closeAllConnections();
    this.#server = undefined;
  }

  /** The port may still be in use by the former proxy of the node. */
  #listen(): void {
    if (!this.#running) return;
    const { host, port } = listenerOf(this.#args, "admin");
    const server = createServer((request, response) => this.#answer(request.url ?? "/", response));
    server.once("error", () => setTimeout(() => this.#listen(), LISTEN_AGAIN_MS));
    server.listen(port, host, () => {
      if (this.#running) this.#server = server;
      else server.close();
    });
  }

  #answer(path: string, response: ServerResponse): void {
    if (this.#how.silent(this.pod)) {
      response.destroy();
      return;
    }
    const send = () => {
      if (path !== "/status") response.writeHead(404).end();
      else response.end(JSON.stringify(this.#status()));
    };
    if (this.#how.statusMs > 0) setTimeout(send, this.#how.statusMs);
    else send();
  }

  #status(): object {
    const loaded = this.#load();
    const sources = this.source === undefined ? [] : [{ address: this.source, assigned: this.#assigned() }];
    return {
      policyError: loaded === undefined ? "no policy file" : null,
      ready: this.ready,
      policy: loaded === undefined ? null : { name: loaded.document.policy, hash: loaded.hash },
      sources,
      verification: this.#proofs(),
    };
  }

  #assigned(): boolean {
    if (this.source === undefined) return true;
    if (optionOf(this.#args, "readiness") === "policy") {
      return this.#readySince !== undefined && Date.now() - this.#readySince >= this.#how.moveMs;
    }
    return this.#how.has(this.pod.spec.nodeName!, this.source);
  }

  #proofs() {
    const loaded = this.#load();
    if (loaded?.document.verification === undefined) return [];
    const sources = this.source === undefined ? [] : [{ address: this.source, family: 4 as const, assigned: true }];
    return routesOf(loaded.document, sources).map(({ route, expected }) => {
      const text = [...expected].join();
      const known = this.#expected.get(route.key);
      const proof = known?.text === text ? known : { text, since: Date.now() };
      this.#expected.set(route.key, proof);
      const verified = this.#assigned() && Date.now() - proof.since >= this.#how.proofMs;
      const at = verified ? new Date(proof.since).toISOString() : null;
      const observed = verified ? [...expected].slice(0, 1) : [];
      return {
        ...{
          way: route.key,
          family: route.family,
          verified,
          expected: [...expected],
          observed,
          provenAt: at,
          checkedAt: at,
        },
        error: verified ? null : "not checked yet",
      };
    });
  }

  /** The policy file, read again when it has changed. */
  #load(): { document: PolicyDocument; hash: string } | undefined {
    let text: string;
    try {
      text = readFileSync(optionOf(this.#args, "policy")!, "utf8");
    } catch {
      return this.#document;
    }
    if (text === this.#text) return this.#document;
    this.#text = text;
    const hash = `sha256:${createHash("sha256").update(text).digest("hex")}`;
    this.#document = { document: readDocument(JSON.parse(text)), hash };
    return this.#document;
  }
}
