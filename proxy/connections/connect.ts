import type { Head } from "../http/head.ts";
import { formatTarget, parseAuthority } from "../policy/target.ts";
import { authorityTargetProblem, shownTarget } from "../policy/target-problem.ts";
import type { Connection } from "./handler.ts";
import { Reaching } from "./reaching.ts";
import { Tunnel } from "./tunnel.ts";

/** A CONNECT until its tunnel is open. */
export class Connect extends Reaching {
  constructor(client: Connection, head: Head) {
    super(client, head, client.newRecord("connect", ""));
  }

  protected override begin(): void {
    const target = parseAuthority(this.head.target);
    if (target === null) {
      this.record.target = shownTarget(this.head.target);
      this.fail({ code: "bad-request", reason: authorityTargetProblem(this.head.target) });
      return;
    }
    this.record.target = formatTarget(target);
    this.reach(target, (socket, request, entry) => {
      const { idleMs } = entry.settings;
      this.open(socket, request, entry, () => new Tunnel(this.client, socket, this.record, idleMs));
    });
  }
}
