import { execFileSync, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { chmodSync, copyFileSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { parseArgs } from "node:util";
import { gzipSync } from "node:zlib";
import { packageJson, ROOT } from "../image/bundle.ts";
import { writeExecutable } from "./executable.ts";
import { manPage } from "./man-page.ts";
import { ARCHITECTURES, type Architecture } from "./node-binary.ts";
import { BuildError, PACKAGES, runScript, withFolder } from "./output.ts";
import { units } from "./unit.ts";

/**
 * `make deb`: a Debian package of the executable with units of systemd. Equal input and equal SOURCE_DATE_EPOCH give equal
 * bytes.
 */

const HELP = `Usage: deb.ts [--arch x64|arm64] [--maintainer "NAME <ADDRESS>"] [--source-url URL] [--out FOLDER]

  --arch x64|arm64   architecture (default: that of this machine)
  --maintainer TEXT  field Maintainer (default: The outrider authors <outrider@localhost>)
  --source-url URL   field Homepage
  --out FOLDER       where the package is written (default: packages)

SOURCE_DATE_EPOCH (seconds; default: the time of the last commit) is the time of all files and of the changelog entry.`;

/** Libraries of the official builds of Node.js 24: symbols up to GLIBC_2.28 and GLIBCXX_3.4.21. */
const DEPENDS = "libc6 (>= 2.28), libgcc-s1 (>= 3.4), libstdc++6 (>= 5.2)";

/** Options of the package. */
export interface DebOptions {
  arch?: Architecture;
  /** `NAME <ADDRESS>` */
  maintainer?: string | undefined;
  sourceUrl?: string | undefined;
  /** Unix time in seconds. */
  epoch: number;
  /** Of dpkg-deb: xz takes a minute, none a second. */
  compression?: "xz" | "none";
  /** Version instead of the one of package.json. */
  version?: string;
}

/** A file of the package: its content, or the file that has it. */
type File = { mode: number; content: string | Buffer } | { mode: number; copyOf: string };

/** A version of package.json as one of Debian: a pre-release sorts before its release. */
export const debVersion = (version: string): string => `${version.replace("-", "~")}-1`;

const gzip = (text: string) => gzipSync(text, { level: 9 });

const DESCRIPTION = `forward proxy for webhook senders
 outrider resolves each host name itself, checks every resolved address, and
 connects only to addresses that its policy allows. A denied request gets its
 reason in the status line. It reads the acl.yaml of Smokescreen.`;

const DEFAULTS_TEXT = `# Variables of outrider.service and outrider@.service. "outrider proxy --help" lists them.
# Only this machine can connect. Set PROXY_PASSWORD before you listen on other addresses.
OUTRIDER_LISTEN=127.0.0.1:4750
#PROXY_PASSWORD=
`;

const PRERM = `#!/bin/sh
# Stops and disables the services before a removal. An upgrade keeps them running with the old program: restart them.
set -e
if [ "$1" = remove ] && command -v systemctl >/dev/null; then
  if [ -z "$DPKG_ROOT" ] && [ -d /run/systemd/system ]; then
    systemctl stop outrider.service 'outrider@*.service'
  fi
  systemctl --root="$DPKG_ROOT/" --quiet disable outrider.service outrider@.service
fi
`;

/** postinst and postrm. Without it, `systemctl restart` after an upgrade would use the old unit. */
const RELOAD = `#!/bin/sh
# Lets systemd read the units that this package installed or removed.
set -e
if [ -z "$DPKG_ROOT" ] && [ -d /run/systemd/system ]; then
  systemctl --system daemon-reload || true
fi
`;

const PLUGIN = `#!/bin/sh
# Plugin of kubectl, which finds it by its name.
exec /usr/bin/outrider egress "$@"
`;

/** Findings of lintian that are intended, each with its reason. */
const OVERRIDES = `# The official build of Node.js is not PIE, and contains its libraries.
outrider: hardening-no-pie [usr/bin/outrider]
outrider: embedded-library * [usr/bin/outrider]
# Complete licences of all parts, as they were distributed.
outrider: copyright-file-contains-full-apache-2-license
# They are those of its parts.
outrider: old-fsf-address-in-copyright-file
# Readable by root only: it may have a password.
outrider: non-standard-file-perm 0600 != 0644 [etc/default/outrider]
# Without debhelper. The script checks for systemd and for DPKG_ROOT.
outrider: maintainer-script-calls-systemctl *
# "kubectl egress --help" describes it.
outrider: no-manual-page [usr/bin/kubectl-egress]
# It is not a part of Debian.
outrider: initial-upload-closes-no-bugs *
`;

function copyright(licences: string, url: string | undefined): string {
  return `outrider${url === undefined ? "" : ` (${url})`}

Copyright: ${packageJson().author}
License: Apache-2.0; on Debian systems, its text is in /usr/share/common-licenses/Apache-2.0.

/usr/bin/outrider contains the following programs. Their licences:

${licences}`;
}

/** Files of the package by their path, without those of DEBIAN/. `version`: Debian's. */
function filesOf(
  executable: { file: string; licences: string },
  version: string,
  options: Required<Pick<DebOptions, "epoch" | "maintainer">> & DebOptions,
): Record<string, File> {
  const date = new Date(options.epoch * 1000);
  const doc = "usr/share/doc/outrider";
  const rfcDate = date.toUTCString().replace("GMT", "+0000");
  const changelog = `outrider (${version}) unstable; urgency=medium

  * Release; changelog.gz lists the changes.

 -- ${options.maintainer}  ${rfcDate}
`;
  const acl = readFileSync(join(ROOT, "examples/acl.yaml"), "utf8");
  const file = (content: string | Buffer, mode = 0o644): File => ({ content, mode });
  const services = Object.entries(units()).map(([name, text]) => [`usr/lib/systemd/system/${name}`, file(text)]);
  return {
    "etc/default/outrider": file(DEFAULTS_TEXT, 0o600),
    "etc/outrider/acl.yaml": file(
      acl.replace("bin/outrider proxy --policy examples/acl.yaml", "outrider check --policy FILE"),
    ),
    "usr/bin/outrider": { copyOf: executable.file, mode: 0o755 },
    "usr/bin/kubectl-egress": file(PLUGIN, 0o755),
    ...Object.fromEntries(services),
    [`${doc}/changelog.Debian.gz`]: file(gzip(changelog)),
    [`${doc}/changelog.gz`]: file(gzip(readFileSync(join(ROOT, "CHANGELOG.md"), "utf8"))),
    [`${doc}/copyright`]: file(copyright(readFileSync(executable.licences, "utf8"), options.sourceUrl)),
    "usr/share/man/man1/outrider.1.gz": file(gzip(manPage(date))),
    "usr/share/lintian/overrides/outrider": file(OVERRIDES),
  };
}

/** Writes files into a folder. Modes do not depend on the umask. */
function writeTree(root: string, files: Readonly<Record<string, File>>): void {
  for (const [path, file] of Object.entries(files)) {
    const to = join(root, path);
    for (let folder = dirname(path); folder !== "."; folder = dirname(folder)) {
      mkdirSync(join(root, folder), { recursive: true });
      chmodSync(join(root, folder), 0o755);
    }
    if ("copyOf" in file) copyFileSync(file.copyOf, to);
    else writeFileSync(to, file.content);
    chmodSync(to, file.mode);
  }
}

/** Size in KiB as dpkg counts it (deb-substvars(5)): files in whole KiB, 1 for all else. */
function installedSize(root: string, paths: readonly string[]): number {
  return paths.reduce((sum, path) => sum + Math.ceil(statSync(join(root, path)).size / 1024), paths.length);
}

/** Builds the package in a folder, from an executable of {@link writeExecutable}. Returns its path. @throws BuildError */
export function writeDeb(
  out: string,
  executable: { file: string; licences: string },
  given: DebOptions,
): Promise<string> {
  const {
    arch = process.arch as Architecture,
    maintainer = "The outrider authors <outrider@localhost>",
    sourceUrl,
  } = given;
  if (!/^[^<>\n]+ <[^<>\s@]+@[^<>\s@]+>$/.test(maintainer)) {
    throw new BuildError(`--maintainer ${maintainer}: no NAME <ADDRESS>; write "Jo Doe <jo@example.com>"`);
  }
  const version = debVersion(given.version ?? packageJson().version);
  const { debian } = ARCHITECTURES[arch];
  return withFolder((root) => {
    const files = filesOf(executable, version, { ...given, maintainer });
    writeTree(root, files);
    const paths = Object.keys(files).sort();
    const sums = paths.map((path) => {
      return `${createHash("md5")
        .update(readFileSync(join(root, path)))
        .digest("hex")}  ${path}\n`;
    });
    const control = [
      "Package: outrider",
      `Version: ${version}`,
      `Architecture: ${debian}`,
      `Maintainer: ${maintainer}`,
      `Installed-Size: ${installedSize(root, paths)}`,
      `Depends: ${DEPENDS}`,
      "Section: net",
      "Priority: optional",
      ...(sourceUrl === undefined ? [] : [`Homepage: ${sourceUrl}`]),
      `Description: ${DESCRIPTION}`,
    ];
    const conffiles = paths.filter((path) => path.startsWith("etc/")).map((path) => `/${path}\n`);
    writeTree(root, {
      "DEBIAN/control": { content: `${control.join("\n")}\n`, mode: 0o644 },
      "DEBIAN/conffiles": { content: conffiles.join(""), mode: 0o644 },
      "DEBIAN/md5sums": { content: sums.join(""), mode: 0o644 },
      "DEBIAN/prerm": { content: PRERM, mode: 0o755 },
      "DEBIAN/postinst": { content: RELOAD, mode: 0o755 },
      "DEBIAN/postrm": { content: RELOAD, mode: 0o755 },
    });
    chmodSync(root, 0o755);
    mkdirSync(out, { recursive: true });
    // Without the ~ of Debian's version: GitHub changes it in names of files.
    const file = join(out, `outrider_${version.replace("~", "-")}_${debian}.deb`);
    const args = ["--root-owner-group", `-Z${given.compression ?? "xz"}`, "--build", root, file];
    // It sorts the entries, and no entry gets a later time than this one.
    const env = { ...process.env, SOURCE_DATE_EPOCH: `${given.epoch}` };
    execFileSync("dpkg-deb", args, { env, stdio: "pipe" });
    return file;
  });
}

/** Time of the last commit of a checkout in Unix seconds. A repository around the folder does not count. */
function commitTime(folder: string): string | undefined {
  const env = { ...process.env, GIT_CEILING_DIRECTORIES: dirname(folder) };
  const { status, stdout } = spawnSync("git", ["log", "-1", "--format=%ct"], { cwd: folder, env, encoding: "utf8" });
  return status === 0 ? stdout.trim() : undefined;
}

/** SOURCE_DATE_EPOCH, or the time of the last commit of the folder. @throws BuildError */
export function epochOf({ SOURCE_DATE_EPOCH: given }: NodeJS.ProcessEnv, folder = resolve(ROOT)): number {
  const text = given || commitTime(folder);
  if (text === undefined) {
    const fix = "set it to seconds, such as the time of the release";
    throw new BuildError(`SOURCE_DATE_EPOCH is not set, and git has no commit here: ${fix}`);
  }
  if (!/^\d{1,11}$/.test(text)) {
    throw new BuildError(`SOURCE_DATE_EPOCH ${text}: no number of seconds; use the time of the release`);
  }
  return Number(text);
}

async function main(): Promise<void> {
  const options = {
    arch: { type: "string", default: process.arch },
    maintainer: { type: "string" },
    "source-url": { type: "string" },
    out: { type: "string", default: PACKAGES },
    help: { type: "boolean" },
  } as const;
  const { values } = parseArgs({ options });
  if (values.help) return console.log(HELP);
  const epoch = epochOf(process.env);
  if (spawnSync("dpkg-deb", ["--version"]).error !== undefined) {
    throw new BuildError("dpkg-deb: not found; install it (Debian: dpkg), or use make executable");
  }
  const arch = values.arch as Architecture;
  const file = await withFolder(async (folder) => {
    const executable = await writeExecutable(folder, arch);
    return writeDeb(values.out, executable, {
      arch,
      epoch,
      maintainer: values.maintainer,
      sourceUrl: values["source-url"],
    });
  });
  console.log(`${relative(process.cwd(), file)}: ${(statSync(file).size / 2 ** 20).toFixed(1)} MiB`);
}

if (import.meta.main) await runScript(main);
