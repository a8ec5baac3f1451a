import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { tempFolder } from "../harness/proxy.ts";

/**
 * The hardening of a systemd unit, as a container of runc: a real kernel enforces the same system calls, address families,
 * capabilities and mounts (systemd.exec(5)). The user is root without capabilities, so that it reads the files of a test.
 */

/** Directives that need no translation: they concern the manager, or files that this container does not have. */
const IGNORED = new Set([
  ...[
    "Environment",
    "EnvironmentFile",
    "ExecStart",
    "ExecReload",
    "TimeoutStopSec",
    "KillMode",
    "Restart",
    "RestartSec",
  ],
  ...["DynamicUser", "UMask", "ProtectKernelModules", "ProtectKernelLogs", "ProtectClock", "ProtectHostname"],
  // Calls that a process without capabilities cannot use, or that the list of calls does not have.
  ...["RestrictRealtime", "SystemCallArchitectures", "ProtectControlGroups"],
]);
const TRANSLATED = [
  ...["CapabilityBoundingSet", "LimitNOFILE", "LockPersonality", "NoNewPrivileges", "PrivateDevices", "PrivateTmp"],
  ...["ProtectHome", "ProtectKernelTunables", "ProtectSystem", "RestrictAddressFamilies", "RestrictNamespaces"],
  ...["SystemCallErrorNumber", "SystemCallFilter"],
];

const FAMILIES: Readonly<Record<string, number>> = { AF_UNIX: 1, AF_INET: 2, AF_INET6: 10, AF_NETLINK: 16 };
/** CLONE_NEWNS to CLONE_NEWNET, with CLONE_NEWCGROUP: clone(2). */
const NEW_NAMESPACES = 0x7e020000;
const ENOSYS = 38;

/** Values of each directive in the section [Service]. */
function directives(unit: string): Map<string, string[]> {
  const section = /^\[Service\]\n([^[]*)/m.exec(unit)![1]!;
  const all = new Map<string, string[]>();
  for (const [, name, value] of section.matchAll(/^(\w+)=(.*)$/gm)) all.set(name!, [...(all.get(name!) ?? []), value!]);
  return all;
}

/** System calls of a name or a set such as `@system-service`, with those of the sets in it. */
function callsOf(name: string): string[] {
  if (!name.startsWith("@")) return [name];
  const text = execFileSync("systemd-analyze", ["syscall-filter", name], { encoding: "utf8" });
  return [...text.matchAll(/^ {4}([@\w]\S*)$/gm)].flatMap(([, call]) => callsOf(call!));
}

/** The system calls that the lines SystemCallFilter= allow. */
function allowedCalls(lines: readonly string[]): string[] {
  const allowed = new Set<string>();
  for (const line of lines) {
    const calls = line.replace(/^~/, "").split(" ").flatMap(callsOf);
    for (const call of calls) line.startsWith("~") ? allowed.delete(call) : allowed.add(call);
  }
  return [...allowed];
}

/** The seccomp part of config.json. */
function seccomp(unit: ReadonlyMap<string, string[]>) {
  assert.deepEqual(unit.get("SystemCallErrorNumber"), ["EPERM"]);
  const special = ["socket", "clone", "clone3", "unshare", "setns", "personality"];
  const names = allowedCalls(unit.get("SystemCallFilter")!).filter((name) => !special.includes(name));
  const action = "SCMP_ACT_ALLOW";
  const families = unit.get("RestrictAddressFamilies")![0]!.split(" ");
  const sockets = families.map((name) => {
    const value = FAMILIES[name] ?? assert.fail(`${name}: write its number`);
    return { names: ["socket"], action, args: [{ index: 0, value, op: "SCMP_CMP_EQ" }] };
  });
  const noNamespace = { index: 0, value: NEW_NAMESPACES, valueTwo: 0, op: "SCMP_CMP_MASKED_EQ" };
  return {
    defaultAction: "SCMP_ACT_ERRNO",
    syscalls: [
      { names, action },
      ...sockets,
      { names: ["clone"], action, args: [noNamespace] },
      // Its flags are in memory: systemd lets libc use clone.
      { names: ["clone3"], action: "SCMP_ACT_ERRNO", errnoRet: ENOSYS },
    ],
  };
}

/** Hides the control groups of version 1 behind empty folders that cannot be written. `--rootless` ignores those of version 2. */
const NO_CGROUPS = `set -e
export PATH=/usr/bin:/bin
cd /sys/fs/cgroup
if [ ! -e cgroup.controllers ]; then
  names=$(ls)
  mount -t tmpfs none /sys/fs/cgroup
  cd /sys/fs/cgroup
  mkdir $names
  mount -o remount,ro /sys/fs/cgroup
fi
exec "$@"`;

/** A program that runs another one with the hardening of a unit, with the same arguments and variables. */
export function confined(program: string, unit: string): string {
  const given = directives(unit);
  for (const name of given.keys()) {
    assert.ok(IGNORED.has(name) || TRANSLATED.includes(name), `${name}=: translate it, or say why not`);
  }
  for (const name of ["LockPersonality", "NoNewPrivileges", "RestrictNamespaces"]) {
    assert.deepEqual(given.get(name), ["yes"]);
  }
  const folder = tempFolder();
  const file = (name: string) => join(folder, name);
  const bind = (path: string) => ({ destination: path, type: "bind", source: path, options: ["rbind", "ro"] });
  const files = Number(given.get("LimitNOFILE")![0]);
  assert.ok(files > 0);
  const none = { bounding: [], effective: [], permitted: [], inheritable: [], ambient: [] };
  const config = {
    ociVersion: "1.0.2",
    process: {
      user: { uid: 0, gid: 0 },
      cwd: "/",
      capabilities: none,
      noNewPrivileges: true,
    },
    root: { path: file("root"), readonly: true },
    mounts: [
      { destination: "/proc", type: "proc", source: "proc" },
      { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "mode=755", "size=64k"] },
      { destination: "/tmp", type: "tmpfs", source: "tmpfs", options: ["nosuid", "nodev", "mode=1777"] },
      ...["/usr", "/lib", "/lib64", "/etc", dirname(program)].filter((path) => existsSync(path)).map(bind),
    ],
    linux: {
      namespaces: ["mount", "ipc"].map((type) => ({ type })),
      readonlyPaths: ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus"],
      seccomp: seccomp(given),
    },
  };
  writeFileSync(file("template.json"), JSON.stringify(config));
  // The folders of absolute paths in the arguments, such as that of the policy, are mounted as well.
  const start = `#!${process.execPath}
const { mkdirSync, writeFileSync } = require("node:fs");
const { dirname } = require("node:path");
const config = require(${JSON.stringify(file("template.json"))});
const args = process.argv.slice(2);
const folders = new Set(args.filter((arg) => arg.startsWith("/")).map(dirname));
for (const path of folders) config.mounts.push({ destination: path, type: "bind", source: path, options: ["rbind", "ro"] });
config.process.args = [${JSON.stringify(program)}, ...args];
config.process.env = Object.entries(process.env).map(([name, value]) => name + "=" + value);
const id = "outrider-unit-" + process.pid;
const bundle = ${JSON.stringify(folder)} + "/" + id;
mkdirSync(bundle);
mkdirSync(config.root.path, { recursive: true });
writeFileSync(bundle + "/config.json", JSON.stringify(config));
const runc = ["/usr/sbin/runc", "--rootless", "true", "--root", ${JSON.stringify(file("state"))}, "run", "--bundle", bundle, id];
// No limit is set, so runc needs no control group: in this namespace it cannot make one.
const script = ${JSON.stringify(`ulimit -n ${files} 2>/dev/null || true\n${NO_CGROUPS}`)};
process.execve("/usr/bin/unshare", ["unshare", "--mount", "/bin/sh", "-c", script, "sh", ...runc], process.env);
`;
  writeFileSync(file("start.cjs"), start, { mode: 0o755 });
  return file("start.cjs");
}
