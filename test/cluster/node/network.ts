import { DNS_HOST, FAMILIES, type Family, FOUR, NODE_IPS_RANGE, SIX } from "./addresses.ts";
import { Namespace, run } from "./namespace.ts";

/** Address of a node. */
export interface NodePlace {
  name: string;
  address: string;
  index: number;
  /** Puts a command into its network namespace. */
  enter: readonly string[];
}

/** Packets to unknown addresses: dropped at the gateway, counted, and reported. */
export interface Foreign {
  packets: number;
  addresses: string[];
}

/**
 * Nodes, a NAT gateway, and the "internet", each in a network namespace, with no route out of them:
 *
 *     nodes 10.0.0.2, .3 ── br0 10.0.0.1 [gateway] 203.0.113.1 ── 203.0.113.2 [internet] 11.0.0.0/24
 *
 * and the same with IPv6 (addresses.ts). The first node's namespace is that of this process; the others belong to processes of
 * their own, and are gone when these are.
 */
export class Network {
  readonly nodes: readonly NodePlace[];
  readonly #gateway: Namespace;
  readonly #internet: Namespace;
  readonly #others: readonly Namespace[];

  /** `count`: nodes. This process has to be in a network namespace with only loopback. */
  constructor(folder: string, count: number) {
    const links = JSON.parse(run(["ip", "-j", "link"])) as { ifname: string }[];
    if (links.some(({ ifname }) => ifname.startsWith("eth"))) {
      throw new Error("a node's network needs its own network namespace, but this process is not in one");
    }
    this.#gateway = new Namespace("gateway", folder);
    this.#internet = new Namespace("internet", folder);
    this.#others = Array.from({ length: count - 1 }, (_, i) => new Namespace(`node-${i + 2}`, folder));
    this.nodes = Array.from({ length: count }, (_, index) => ({
      name: `node-${index + 1}`,
      address: FOUR.node(index),
      index,
      enter: index === 0 ? [] : this.#others[index - 1]!.enter,
    }));
    for (const enter of this.#all()) {
      // Without duplicate address detection, which would delay IPv6 by a second or two.
      const quiet = "for f in all default; do echo 0 >/proc/sys/net/ipv6/conf/$f/accept_dad; done";
      run([...enter, "sh", "-c", quiet]);
      run([...enter, "ip", "link", "set", "lo", "up"]);
    }
    this.#makeGateway();
    for (const node of this.nodes) this.#plug(node);
    this.#makeInternet();
    for (const family of FAMILIES) this.snat(family.staticIPs[0], family);
    this.#assertClosed();
  }

  #all(): (readonly string[])[] {
    return [this.#gateway.enter, this.#internet.enter, ...this.nodes.map(({ enter }) => enter)];
  }

  /** Puts a command into the network namespace of the "internet". */
  get internet(): readonly string[] {
    return this.#internet.enter;
  }

  /** Sets the address to which the gateway translates connections of nodes and pods; undefined: no translation. */
  snat(address: string | undefined, { table, private: own }: Family = FOUR): void {
    const rule = `add rule ${table} nat post oifname "outside" ${table} saddr ${own} snat to ${address}`;
    // The chain is kept: connections that began without it would never be translated.
    this.#nft(`flush chain ${table} nat post\n${address === undefined ? "" : rule}\n`);
  }

  /** Adds an address to a node, or removes it. */
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
    run([...gateway, "ip", "link", "add", "br0", "type", "bridge"]);
    run([...gateway, "ip", "link", "set", "br0", "up"]);
    for (const { inside, prefix } of FAMILIES)
      run([...gateway, "ip", "addr", "add", `${inside}/${prefix}`, "dev", "br0"]);
    const forward = "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding";
    run([...gateway, "sh", "-c", forward]);
    const ours = (family: Family) => [family.private, family.between, family.hosts].join(", ");
    this.#nft(`
      table ip nat {
        chain post {
          type nat hook postrouting priority 100
        }
      }
      table ip6 nat {
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
          ip daddr != { ${ours(FOUR)}, 224.0.0.0/4, 255.255.255.255 } update @foreign4 { ip daddr } counter name foreign drop
          ip6 daddr != { ${ours(SIX)}, fe80::/10, ff00::/8 } update @foreign6 { ip6 daddr } counter name foreign drop
        }
      }
    `);
  }

  #plug({ name, index, enter }: NodePlace): void {
    const peer = ["peer", "name", name, "netns", `${this.#gateway.pid}`];
    run([...enter, "ip", "link", "add", "eth0", "type", "veth", ...peer]);
    run([...this.#gateway.enter, "ip", "link", "set", name, "master", "br0", "up"]);
    run([...enter, "ip", "link", "set", "eth0", "up"]);
    for (const { node, prefix, inside, podCIDR } of FAMILIES) {
      run([...enter, "ip", "addr", "add", `${node(index)}/${prefix}`, "dev", "eth0"]);
      run([...enter, "ip", "route", "add", "default", "via", inside]);
      for (const other of this.nodes) {
        if (other.index !== index)
          run([...enter, "ip", "route", "add", podCIDR(other.index), "via", node(other.index)]);
      }
    }
  }

  #makeInternet(): void {
    const [gateway, internet] = [this.#gateway.enter, this.#internet.enter];
    const peer = ["peer", "name", "outside", "netns", `${this.#gateway.pid}`];
    run([...internet, "ip", "link", "add", "eth0", "type", "veth", ...peer]);
    run([...internet, "ip", "link", "set", "eth0", "up"]);
    run([...gateway, "ip", "link", "set", "outside", "up"]);
    for (const family of FAMILIES) {
      const { farSide, outside, prefix, bits, receiver, echo, staticIPs, hosts } = family;
      run([...internet, "ip", "addr", "add", `${farSide}/${prefix}`, "dev", "eth0"]);
      for (const one of [receiver, echo]) run([...internet, "ip", "addr", "add", `${one}/${bits}`, "dev", "lo"]);
      for (const one of [outside, ...staticIPs])
        run([...gateway, "ip", "addr", "add", `${one}/${prefix}`, "dev", "outside"]);
      run([...gateway, "ip", "route", "add", hosts, "via", farSide]);
      // The return route of untranslated packets, so that a leak is visible there.
      run([...internet, "ip", "route", "add", family.private, "via", outside]);
    }
    run([...internet, "ip", "addr", "add", `${DNS_HOST}/32`, "dev", "lo"]);
    run([...internet, "ip", "route", "add", NODE_IPS_RANGE, "via", FOUR.outside]);
    run([...gateway, "ip", "route", "add", NODE_IPS_RANGE, "dev", "br0"]);
  }

  /** Checks that only the links and routes that were created above exist. @throws otherwise: nothing is started then */
  #assertClosed(): void {
    const link = /^(lo|br0|eth0|outside|node-\d+)$/;
    const route = {
      "-4": /^(default via 10\.0\.0\.1 dev eth0|(10|203\.0\.113|11)\.)/,
      "-6": /^(default via fd00:10::1 dev eth0|fd00:|fe80::|2001:db8:113:|2a00:11:|(blackhole|unreachable) )/,
    };
    for (const enter of this.#all()) {
      const links = JSON.parse(run([...enter, "ip", "-j", "link"])) as { ifname: string }[];
      const bad = links.filter(({ ifname }) => !link.test(ifname)).map(({ ifname }) => ifname);
      for (const flag of ["-4", "-6"] as const) {
        const lines = run([...enter, "ip", flag, "route"])
          .split("\n")
          .filter(Boolean);
        bad.push(...lines.filter((line) => !route[flag].test(line)));
      }
      if (bad.length > 0) throw new Error(`unexpected links or routes in the test network: ${bad.join(", ")}`);
    }
  }
}
