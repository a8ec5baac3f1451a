import { readFileSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "../image/bundle.ts";

/** Units of the Debian package. Both come from examples/systemd/outrider@.service, so that there is one list of settings. */

/** File with variables for all services. */
export const DEFAULTS = "/etc/default/outrider";

/** Replaces a text that must be there. */
function change(text: string, from: string | RegExp, to: string): string {
  const changed = text.replace(from, to);
  if (changed === text) throw new Error(`examples/systemd/outrider@.service: lacks ${from}`);
  return changed;
}

/** The units by file name: one process, and one of several on one port. */
export function units(): Record<string, string> {
  const example = readFileSync(join(ROOT, "examples/systemd/outrider@.service"), "utf8");
  let several = change(example, "/opt/outrider/bin/outrider", "/usr/bin/outrider");
  several = change(several, "file:///opt/outrider/docs/proxy.md", "man:outrider(1)");
  several = change(several, "EnvironmentFile=-/etc/outrider/outrider.env", `EnvironmentFile=-${DEFAULTS}`);
  several = change(several, "/etc/outrider/outrider.env (mode 0600)", DEFAULTS);
  let single = change(
    several,
    /^(#.*\n)+/,
    `# One proxy process. The policy is /etc/outrider/acl.yaml, variables are in ${DEFAULTS}.\n`,
  );
  single = change(single, "outrider forward proxy %i", "outrider forward proxy");
  single = change(single, /^Environment=OUTRIDER_REUSE_PORT=true\n/m, "");
  single = change(single, /^Environment=OUTRIDER_ADMIN=.*\n/m, "");
  single = change(single, /^#.*\nEnvironment=OUTRIDER_DRAIN_DELAY_SECONDS=.*\n/m, "");
  return { "outrider.service": single, "outrider@.service": several };
}
