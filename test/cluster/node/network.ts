import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { Program } from "../processes.ts";

/**
 * Nodes, a NAT gateway, and the "internet", each in a network namespace, with no route out of them:
 *
 *     nodes 10.0.0.2, .3 ── br0 10.0.0.1 [gateway] 203.0.113.1 ── 203.0.113.2 [internet] 11.0.0.0/24
 *
 * The namespaces belong to processes, and are gone when these are.
 */

/** Public as far as any registry of special-purpose addresses can tell, and nowhere but here. */
export const INTERNET = { receiver: "11.0.0.10", echo: "11.0.0.20", dns: "11.0.0.53" } as const;
/** What the gateway may translate to. */
export const STATIC_IPS = ["203.0.113.10", "203.0.113.11"] as const;
/** Addresses for the nodes themselves: routed to their segment, and never translated. */
export const NODE_IPS = ["203.0.113.17", "203.0.113.18"] as const;
const NODE_IPS_RANGE = "203.0.113.16/28";
export const PODS = "10.244.0.0/16";
export const SERVICES = "10.96.0.0/16";
const NODES = "10.0.0.0/24";
const GATEWAY = { inside: "10.0.0.1", outside: "203.0.113.1" };
const FAR_SIDE = "203.0.113.2";

/** Where a node is. */
export interface NodePlace {
  name: string;
  address: string;
  podCIDR: string;
  /** Puts a command into its network namespace. */
  enter: readonly string[];
}

/** Packets to addresses that are none of ours: dropped at the gateway, counted, and named. */
export interface Foreign {
  packets: number;
  addresses: string[];
}

const CARRIER_MS = 5000;

/** A network namespace for as long as a process of its own lives. */
class Namespace {
  readonly #holder: Program;
  readonly enter: readonly string[];

  constructor(name: string, folder: string) {
    this.#holder = new Program(name, ["unshare", "--net", "sleep", "infinity"], join(folder, `${name}.log`));
    this.#holder.start();
    // The program becomes `unshare`, and then `sleep`, under the same process id.
    const own = execFileSync("readlink", ["/proc/self/ns/net"], { encoding: "utf8" });
    const link = `/proc/${this.#holder.pid}/ns/net`;
    for (const began = Date.now(); ; ) {
      if (execFileSync("readlink", [link], { encoding: "utf8" }) !== own) break;
      if (Date.now() - began > CARRIER_MS) throw new Error(`no network namespace: ${this.#holder.tail}`);
    }
    this.enter = ["nsenter", `--net=${link}`, "--"];
  }

  get pid(): number {
    return this.#holder.pid;
  }

  stop(): Promise<void> {
    return this.#holder.stop();
  }
}

function run(command: readonly string[], input?: string): string {
  return execFileSync(command[0]!, command.slice(1), { encoding: "utf8", input, stdio: ["pipe", "pipe", "inherit"] });
}

/** The network of a cluster. The first node's namespace is that of this process. */
export class Network {
  readonly nodes: readonly NodePlace[];
  readonly #gateway: Namespace;
  readonly #internet: Namespace;
  readonly #others: readonly Namespace[];

  /** `count`: nodes. This process has to be in a network namespace that has loopback alone. */
  constructor(folder: string, count: number) {
    const links = JSON.parse(run(["ip", "-j", "link"])) as { ifname: string }[];
    if (links.some(({ ifname }) => ifname.startsWith("eth"))) {
      throw new Error("a node's network is made in a namespace of its own, which this process is not in");
    }
    this.#gateway = new Namespace("gateway", folder);
    this.#internet = new Namespace("internet", folder);
    this.#others = Array.from({ length: count - 1 }, (_, i) => new Namespace(`node-${i + 2}`, folder));
    this.nodes = Array.from({ length: count }, (_, i) => ({
      name: `node-${i + 1}`,
      address: `10.0.0.${i + 2}`,
      podCIDR: `10.244.${i}.0/24`,
      enter: i === 0 ? [] : this.#others[i - 1]!.enter,
    }));
    this.#makeGateway();
    for (const [index, node] of this.nodes.entries()) this.#plug(node, index);
    this.#makeInternet();
    this.snat(STATIC_IPS[0]);
    this.#assertClosed();
  }

  /** Puts a command into the network namespace of the "internet". */
  get internet(): readonly string[] {
    return this.#internet.enter;
  }

  /** What the gateway translates connections of nodes and pods to; undefined: it lets them through as they are. */
  snat(address: string | undefined): void {
    const rule = `add rule ip nat post oifname "outside" ip saddr 10.0.0.0/8 snat to ${address}`;
    // The chain stays: without it for a moment, what begins then is never translated.
    this.#nft(`flush chain ip nat post\n${address === undefined ? "" : rule}\n`);
  }

  /** Gives a node a further address, or takes it away. */
  give(node: number, address: string): void {
    run([...this.nodes[node]!.enter, "ip", "addr", "add", `${address}/32`, "dev", "eth0"]);
  }

  take(node: number, address: string): void {
    run([...this.nodes[node]!.enter, "ip", "addr", "del", `${address}/32`, "dev", "eth0"]);
  }

  foreign(): Foreign {
    const tables = JSON.parse(run([...this.#gateway.enter, "nft", "-j", "list", "ruleset"])) as {
      nftables: { counter?: { name: string; packets: number }; set?: { name: string; elem?: Elem[] } }[];
    };
    type Elem = string | { elem: { val: string } };
    const packets = tables.nftables.reduce((sum, { counter }) => sum + (counter?.packets ?? 0), 0);
    const addresses = tables.nftables.flatMap(({ set }) =>
      (set?.elem ?? []).map((elem) => (typeof elem === "string" ? elem : elem.elem.val)),
    );
    return { packets, addresses };
  }

  async stop(): Promise<void> {
    await Promise.all([this.#gateway, this.#internet, ...this.#others].map((one) => one.stop()));
  }

  #nft(rules: string): void {
    run([...this.#gateway.enter, "nft", "-f", "-"], rules);
  }

  #makeGateway(): void {
    const gateway = this.#gateway.enter;
    run([...gateway, "ip", "link", "set", "lo", "up"]);
    run([...gateway, "ip", "link", "add", "br0", "type", "bridge"]);
    run([...gateway, "ip", "addr", "add", `${GATEWAY.inside}/24`, "dev", "br0"]);
    run([...gateway, "ip", "link", "set", "br0", "up"]);
    run([...gateway, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"]);
    // Router solicitations and the like of IPv6, which is not routed here, are link-local or multicast.
    this.#nft(`
      table ip nat {
        chain post {
          type nat hook postrouting priority 100
        }
      }
      table inet guard {
        counter foreign {
        }
        set foreign4 {
          type ipv4_addr
          flags dynamic
          size 1024
        }
        set foreign6 {
          type ipv6_addr
          flags dynamic
          size 1024
        }
        chain pre {
          type filter hook prerouting priority -300
          ip daddr != { 10.0.0.0/8, 203.0.113.0/24, 11.0.0.0/24, 224.0.0.0/4, 255.255.255.255 } update @foreign4 { ip daddr } counter name foreign drop
          ip6 daddr != { fe80::/10, ff00::/8 } update @foreign6 { ip6 daddr } counter name foreign drop
        }
      }
    `);
  }

  #plug({ name, address, enter }: NodePlace, index: number): void {
    const inside = [...enter, "ip"];
    run([...inside, "link", "set", "lo", "up"]);
    const peer = ["peer", "name", name, "netns", `${this.#gateway.pid}`];
    run([...inside, "link", "add", "eth0", "type", "veth", ...peer]);
    run([...this.#gateway.enter, "ip", "link", "set", name, "master", "br0", "up"]);
    run([...inside, "addr", "add", `${address}/24`, "dev", "eth0"]);
    run([...inside, "link", "set", "eth0", "up"]);
    run([...inside, "route", "add", "default", "via", GATEWAY.inside]);
    for (const [other, { podCIDR, address }] of this.nodes.entries()) {
      if (other !== index) run([...inside, "route", "add", podCIDR, "via", address]);
    }
  }

  #makeInternet(): void {
    const [gateway, internet] = [this.#gateway.enter, this.#internet.enter];
    const peer = ["peer", "name", "outside", "netns", `${this.#gateway.pid}`];
    run([...internet, "ip", "link", "set", "lo", "up"]);
    run([...internet, "ip", "link", "add", "eth0", "type", "veth", ...peer]);
    run([...internet, "ip", "addr", "add", `${FAR_SIDE}/24`, "dev", "eth0"]);
    run([...internet, "ip", "link", "set", "eth0", "up"]);
    for (const address of Object.values(INTERNET))
      run([...internet, "ip", "addr", "add", `${address}/32`, "dev", "lo"]);
    // The way back of what was not translated: a leak has to be seen there.
    run([...internet, "ip", "route", "add", "10.0.0.0/8", "via", GATEWAY.outside]);
    run([...internet, "ip", "route", "add", NODE_IPS_RANGE, "via", GATEWAY.outside]);
    run([...gateway, "ip", "route", "add", NODE_IPS_RANGE, "dev", "br0"]);
    for (const address of [GATEWAY.outside, ...STATIC_IPS]) {
      run([...gateway, "ip", "addr", "add", `${address}/24`, "dev", "outside"]);
    }
    run([...gateway, "ip", "link", "set", "outside", "up"]);
    run([...gateway, "ip", "route", "add", "11.0.0.0/24", "via", FAR_SIDE]);
  }

  /** Every link is one that was made above, and so is every route. @throws otherwise: nothing is started then */
  #assertClosed(): void {
    const link = /^(lo|br0|eth0|outside|node-\d+)$/;
    const route = /^(default via 10\.0\.0\.1 dev eth0|(10|203\.0\.113|11)\.)/;
    for (const enter of [this.#gateway.enter, this.#internet.enter, ...this.nodes.map((node) => node.enter)]) {
      const links = JSON.parse(run([...enter, "ip", "-j", "link"])) as { ifname: string; link_type: string }[];
      const routes = run([...enter, "ip", "-4", "route"])
        .split("\n")
        .filter(Boolean);
      const bad = [
        ...links.filter(({ ifname }) => !link.test(ifname)).map(({ ifname }) => ifname),
        ...routes.filter((line) => !route.test(line)),
      ];
      if (bad.length > 0) throw new Error(`the test network has more than was put there: ${bad.join(", ")}`);
    }
  }
}

/** Networks that stay on a node: what leaves it for others gets the node's address. */
export const INSIDE = [PODS, SERVICES, NODES];
