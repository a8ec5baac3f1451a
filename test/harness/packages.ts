import { accessSync, constants } from "node:fs";
import { join } from "node:path";

/** Debian packages of the programs that the demo and the tests run. README.md and .ci/run list the same ones. */

/** Programs of a real cluster (`make demo`, test/e2e) with their packages. */
export const CLUSTER_PROGRAMS = {
  containerd: "containerd",
  ctr: "containerd",
  ip: "iproute2",
  iptables: "iptables",
  nft: "nftables",
  nsenter: "util-linux",
  openssl: "openssl",
  runc: "runc",
  setpriv: "util-linux",
  unshare: "util-linux",
} as const;

/** Further programs that some tests run, with their packages. */
export const TEST_PROGRAMS = {
  buildah: "buildah",
  // For tests of the pages.
  chromium: "chromium",
  curl: "curl",
  "docker-registry": "docker-registry",
  gpg: "gpg",
  haproxy: "haproxy",
  ipset: "ipset",
  javac: "default-jdk-headless",
  lintian: "lintian",
  make: "make",
  nginx: "nginx",
  // With the module venv, into which test/senders installs packages.
  python3: "python3-venv",
  ruby: "ruby",
  skopeo: "skopeo",
  squid: "squid",
  strip: "binutils",
  "systemd-analyze": "systemd",
  tinyproxy: "tinyproxy-bin",
} as const;

/** Package of the stream module of nginx, and its file. */
export const NGINX_STREAM = { name: "libnginx-mod-stream", file: "/usr/lib/nginx/modules/ngx_stream_module.so" };

/** Package of the CNI plugins, which are not in `PATH`. */
export const PLUGIN_PACKAGE = "containernetworking-plugins";

/** Whether `PATH` has this program. */
export const isInstalled = (program: string): boolean =>
  (process.env.PATH ?? "").split(":").some((folder) => {
    try {
      accessSync(join(folder || ".", program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });

/** Packages of those programs that `PATH` does not have, sorted. */
export function packagesMissing(programs: Readonly<Record<string, string>>): string[] {
  const missing = Object.entries(programs).filter(([program]) => !isInstalled(program));
  return [...new Set(missing.map(([, name]) => name))].sort();
}

/** The command that installs these packages. */
export const aptLine = (packages: readonly string[]): string =>
  `apt-get install -y --no-install-recommends ${packages.join(" ")}`;

/** The reason to skip a test without this program; null when it is installed. */
export function programMissing(program: keyof typeof CLUSTER_PROGRAMS | keyof typeof TEST_PROGRAMS): string | null {
  if (isInstalled(program)) return null;
  return `needs ${program} (Debian: ${{ ...CLUSTER_PROGRAMS, ...TEST_PROGRAMS }[program]})`;
}
