import { execFileSync } from "node:child_process";

/** Of nft's JSON; with a timeout, counter and the like it is one level deeper. */
type Element = Pair | { elem: { val: Pair } };
type Pair = { concat: [string, number] };

/**
 * Records every connection attempt of the pods of a node, before any translation, so that ClusterIPs are visible as
 * such. Pods on the same bridge are included (br_netfilter).
 */
export class Dials {
  readonly #enter: readonly string[];

  /** `enter`: puts a command into the node's network namespace. `pods`: addresses of the watched pods. */
  constructor(enter: readonly string[], pods: readonly string[]) {
    this.#enter = enter;
    this.#nft(
      ["-f", "-"],
      `table ip dials {
        set watched {
          type ipv4_addr
          elements = { ${pods.join(", ")} }
        }
        set seen {
          type ipv4_addr . inet_service
          flags dynamic
          size 4096
        }
        chain pre {
          type filter hook prerouting priority -310
          ip saddr @watched tcp flags & (syn | ack) == syn update @seen { ip daddr . tcp dport }
        }
      }
      `,
    );
  }

  /** The dialled addresses so far, as `ADDRESS:PORT`, sorted. */
  seen(): string[] {
    const { nftables } = JSON.parse(this.#nft(["-j", "list", "set", "ip", "dials", "seen"])) as {
      nftables: { set?: { elem?: Element[] } }[];
    };
    const elements = nftables.flatMap(({ set }) => set?.elem ?? []);
    return elements.map((one) => ("elem" in one ? one.elem.val : one).concat.join(":")).sort();
  }

  stop(): void {
    this.#nft(["delete", "table", "ip", "dials"]);
  }

  #nft(args: readonly string[], input?: string): string {
    const [program, ...rest] = [...this.#enter, "nft", ...args];
    return execFileSync(program!, rest, { encoding: "utf8", input, stdio: ["pipe", "pipe", "inherit"] });
  }
}
