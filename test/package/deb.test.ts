import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import {
  appendFileSync,
  copyFileSync,
  existsSync,
  globSync,
  mkdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { before, test } from "node:test";
import { packageJson, ROOT } from "../../bin/image/bundle.ts";
import { debVersion, epochOf, writeDeb } from "../../bin/package/deb.ts";
import { writeExecutable } from "../../bin/package/executable.ts";
import { units } from "../../bin/package/unit.ts";
import { commandOf } from "../harness/install-page.ts";
import { programMissing } from "../harness/packages.ts";
import { startProxy, tempFolder } from "../harness/proxy.ts";
import { checkCommands, checkFirstRequest, checkRequest } from "./checks.ts";
import { confined } from "./confined.ts";

/** The Debian package, installed by dpkg into a folder. */

const isRoot = process.getuid!() === 0;
const skip =
  programMissing("dpkg-deb") ?? programMissing("strip") ?? (isRoot ? false : "needs root: dpkg sets owners of files");
const folder = tempFolder();
const options = {
  epoch: 1_780_000_000,
  compression: "none" as const,
  maintainer: "Jo Doe <jo@outrider.dev>",
};
let executable: { file: string; licences: string };
let deb: string;
/** A package with a small file instead of the executable, for tests of files and versions. */
const small = { file: join(folder, "small"), licences: join(folder, "licences") };

/** Runs a program. Fails with its output if it fails. */
function run(program: string, args: readonly string[], cwd?: string): string {
  const { status, stdout, stderr, error } = spawnSync(program, args, { cwd, encoding: "utf8" });
  assert.equal(status, 0, error?.message ?? stdout + stderr);
  return stdout;
}

/** A root folder with an empty database of dpkg. */
function makeRoot(): string {
  const root = tempFolder();
  for (const one of ["info", "updates", "triggers", "parts"]) {
    mkdirSync(join(root, "var/lib/dpkg", one), { recursive: true });
  }
  for (const file of ["status", "available"]) writeFileSync(join(root, "var/lib/dpkg", file), "");
  return root;
}

/** The libraries are those of this machine, and scripts run without chroot. */
const dpkg = (root: string, ...args: string[]) =>
  run("dpkg", [`--root=${root}`, "--force-depends", "--force-script-chrootless", ...args]);

/** Paths below a root, without the database of dpkg. */
const pathsOf = (root: string) =>
  globSync("**/*", { cwd: root }).filter(
    (path) => !/^(var|tmp)(\/|$)/.test(path) && !statSync(join(root, path)).isDirectory(),
  );

before(async () => {
  if (skip !== false) return;
  for (const file of Object.values(small)) writeFileSync(file, "small\n");
  executable = await writeExecutable(folder);
  deb = await writeDeb(join(folder, "one"), executable, options);
});

test("equal input gives equal bytes", { skip }, async () => {
  const [one, other] = [
    await writeDeb(join(folder, "a"), small, options),
    await writeDeb(join(folder, "b"), small, options),
  ];
  assert.ok(readFileSync(one).equals(readFileSync(other)));
});

test("every entry belongs to root, and no file is writable by others", { skip }, () => {
  for (const line of run("dpkg-deb", ["--contents", deb]).trim().split("\n")) {
    assert.match(line, /^([-d]r[-w]x?.{6}|-rw-r--r--|-rw-------|lrwxrwxrwx|[-d]rwxr-xr-x) root\/root /);
    assert.doesNotMatch(line, /^[-d].{7}w/);
  }
});

test("lintian finds no error and no warning", {
  skip: skip === false ? (programMissing("lintian") ?? false) : skip,
  timeout: 300_000,
}, () => {
  const { stdout, stderr } = spawnSync("lintian", ["--allow-root", "--fail-on=none", "--no-cfg", deb], {
    encoding: "utf8",
    timeout: 290_000,
  });
  // The package of this test is not compressed, which saves a minute.
  const found = stdout.split("\n").filter((line) => /^[EW]:/.test(line) && !line.includes("uses-no-compression"));
  assert.deepEqual(found, [], stderr);
});

test("apt-get would install it by the command of docs/install.md", { skip }, () => {
  const [program, ...args] = commandOf("Debian package").replace("X.Y.Z", packageJson().version).split(" ");
  assert.match(run(program!, [...args, "--simulate"], dirname(deb)), /^Inst outrider \(/m);
});

test("an installed package has its files, which run and serve a request", { skip, timeout: 180_000 }, async (t) => {
  const root = makeRoot();
  dpkg(root, "--install", deb);
  const files = pathsOf(root);
  for (const path of [
    "usr/bin/kubectl-egress",
    "usr/bin/outrider",
    "usr/lib/systemd/system/outrider.service",
    "usr/lib/systemd/system/outrider@.service",
    "etc/outrider/acl.yaml",
    "etc/default/outrider",
    "usr/share/doc/outrider/copyright",
    "usr/share/man/man1/outrider.1.gz",
  ]) {
    assert.ok(files.includes(path), `${path} is missing`);
  }
  assert.equal(run("dpkg", [`--root=${root}`, "--verify", "outrider"]), "");
  const program = join(root, "usr/bin/outrider");
  checkCommands(program);
  run(program, ["check", "--policy", join(root, "etc/outrider/acl.yaml")]);
  await checkRequest(t, program, { env: { PATH: "/nonexistent" } });
  await checkFirstRequest(t, program);
});

test("an upgrade keeps edited files, and a purge removes all", { skip, timeout: 180_000 }, async () => {
  const root = makeRoot();
  dpkg(root, "--install", await writeDeb(join(folder, "first"), small, options));
  const acl = join(root, "etc/outrider/acl.yaml");
  appendFileSync(acl, "# ours\n");
  const edited = readFileSync(acl, "utf8");
  const next = await writeDeb(join(folder, "next"), small, { ...options, version: "99.0.0" });
  dpkg(root, "--install", next);
  assert.equal(readFileSync(acl, "utf8"), edited);
  // biome-ignore lint/suspicious/noTemplateCurlyInString: a format of dpkg-query
  const asked = ["--admindir", join(root, "var/lib/dpkg"), "--show", "--showformat=${Version}", "outrider"];
  assert.equal(run("dpkg-query", asked), "99.0.0-1");
  dpkg(root, "--remove", "outrider");
  assert.deepEqual(pathsOf(root).sort(), ["etc/default/outrider", "etc/outrider/acl.yaml"]);
  dpkg(root, "--purge", "outrider");
  assert.deepEqual(pathsOf(root), []);
  assert.ok(!existsSync(join(root, "etc/outrider")));
});

test("systemd accepts the units, and finds them well confined", {
  skip: skip === false ? (programMissing("systemd-analyze") ?? false) : skip,
}, () => {
  const root = tempFolder();
  run("dpkg-deb", ["--extract", deb, root]);
  for (const name of ["outrider.service", "outrider@1.service"]) {
    const file = join(root, name);
    const unit = readFileSync(join(root, "usr/lib/systemd/system", name.replace("@1", "@")), "utf8");
    assert.match(unit, /^ExecStart=\/usr\/bin\/outrider proxy$/m);
    writeFileSync(file, unit.replaceAll("/usr/bin/outrider", join(root, "usr/bin/outrider")));
    const verified = spawnSync("systemd-analyze", ["verify", "--man=no", "--recursive-errors=no", file], {
      encoding: "utf8",
    });
    assert.deepEqual([verified.status, verified.stderr], [0, ""]);
    // Tenths: 0 is confined, 100 is not.
    run("systemd-analyze", ["security", "--offline=true", "--threshold=20", file]);
  }
});

test("systemd reads the units of an installation, of an upgrade and of a removal", {
  skip: skip === false ? (programMissing("unshare") ?? false) : skip,
}, async () => {
  const root = tempFolder();
  run("dpkg-deb", ["--control", await writeDeb(join(folder, "scripts"), small, options), root]);
  const systemctl = join(root, "bin/systemctl");
  mkdirSync(join(root, "bin"));
  writeFileSync(systemctl, '#!/bin/sh\necho "$*"\n', { mode: 0o755 });
  // A folder of systemd in a mount namespace of its own.
  const start = 'mount -t tmpfs none /run && mkdir -p "/run/$1" && PATH="$2:$PATH" && shift 2 && exec "$@"';
  for (const [state, script, args, expected] of [
    ["systemd/system", "postinst", ["configure", ""], "--system daemon-reload\n"],
    ["systemd/system", "postinst", ["configure", "0.0.9-1"], "--system daemon-reload\n"],
    ["systemd/system", "postrm", ["remove"], "--system daemon-reload\n"],
    ["systemd/system", "postrm", ["purge"], "--system daemon-reload\n"],
    ["other", "postinst", ["configure", ""], ""],
    ["other", "postrm", ["remove"], ""],
  ] as const) {
    const command = ["sh", "-c", start, "sh", state, join(root, "bin"), join(root, script), ...args];
    assert.equal(run("unshare", ["--mount", ...command]), expected, `${script} ${args.join(" ")}, ${state}`);
  }
});

const confinedSkip =
  skip === false
    ? (programMissing("systemd-analyze") ?? programMissing("runc") ?? programMissing("unshare") ?? false)
    : skip;

test("the executable serves with the system calls, families and mounts of each unit", {
  skip: confinedSkip,
  timeout: 180_000,
}, async (t) => {
  for (const [name, unit] of Object.entries(units())) {
    await t.test(name, async (t) =>
      checkRequest(t, confined(executable.file, unit), { env: { PATH: "/nonexistent" } }),
    );
  }
  await t.test("a unit that denies its system calls stops it", async () => {
    const unit = units()["outrider.service"]!.replace("=~@privileged", "=~@privileged @network-io");
    const proxy = startProxy({ program: confined(executable.file, unit), env: { PATH: "/nonexistent" } });
    await assert.rejects(proxy, /the proxy ended with 2: .*listen EPERM/s);
  });
  await t.test("a unit that denies its address families stops it", async () => {
    const unit = units()["outrider.service"]!.replace(" AF_NETLINK\n", "\n");
    const proxy = startProxy({ program: confined(executable.file, unit), env: { PATH: "/nonexistent" } });
    await assert.rejects(proxy, /the proxy ended with 70: .*uv_interface_addresses/s);
  });
});

test("pre-releases sort before their release", { skip }, async () => {
  const [early, final] = [debVersion("1.0.0-rc.1"), debVersion("1.0.0")];
  assert.deepEqual([early, final], ["1.0.0~rc.1-1", "1.0.0-1"]);
  run("dpkg", ["--compare-versions", early, "lt", final]);
  // GitHub changes other characters in the names of files of a release.
  const file = await writeDeb(join(folder, "early"), small, { ...options, version: "1.0.0-rc.1" });
  assert.match(file, /\/outrider_1\.0\.0-rc\.1-1_\w+\.deb$/);
});

test("a wrong maintainer is reported with the field and the fix", { skip }, async () => {
  const building = async () => writeDeb(folder, small, { ...options, maintainer: "Jo" });
  await assert.rejects(building, /^Error: --maintainer Jo: no NAME <ADDRESS>; write "Jo Doe <jo@example\.com>"$/);
});

test("the script reports what is missing in one line, before the build", () => {
  const script = join(ROOT, "bin/package/deb.ts");
  const PATH = "/nonexistent";
  for (const [env, line] of [
    [
      { PATH },
      "SOURCE_DATE_EPOCH is not set, and git has no commit here: set it to seconds, such as the time of the release\n",
    ],
    [
      { PATH, SOURCE_DATE_EPOCH: "today" },
      "SOURCE_DATE_EPOCH today: no number of seconds; use the time of the release\n",
    ],
    [{ PATH, SOURCE_DATE_EPOCH: "1" }, "dpkg-deb: not found; install it (Debian: dpkg), or use make executable\n"],
  ] as const) {
    const { status, stderr } = spawnSync(process.execPath, [script], { env, encoding: "utf8" });
    assert.deepEqual([status, stderr], [2, line]);
  }
});

test("the time is that of the last commit of this checkout, not of a folder around it", {
  skip: spawnSync("git", ["--version"]).error !== undefined && "needs git",
}, () => {
  const outer = tempFolder();
  const git = (...args: string[]) =>
    run("git", ["-C", outer, "-c", "user.name=Jo", "-c", "user.email=jo@outrider.dev", ...args]);
  git("init", "--quiet");
  git("commit", "--quiet", "--allow-empty", "--message=one", "--date=@1", "--no-gpg-sign");
  const inner = join(outer, "outrider");
  mkdirSync(inner);
  assert.throws(() => epochOf({}, inner), /^Error: SOURCE_DATE_EPOCH is not set, and git has no commit here/);
  assert.equal(epochOf({}, outer), Number(git("log", "-1", "--format=%ct")));
  // The revision in the labels of the image.
  for (const [at, has] of [
    [outer, true],
    [inner, false],
  ] as const) {
    for (const name of ["Makefile", "package.json", "package-lock.json"])
      copyFileSync(join(ROOT, name), join(at, name));
    assert.equal(run("make", ["--dry-run", "-C", at, "image-archive"]).includes("--revision"), has, at);
  }
});
