import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { rootCertificates } from "node:tls";
import { DIST, ROOT } from "./bundle.ts";
import { type TarEntry, tree } from "./tar.ts";

/** distroless' nonroot. */
export const USER = "65532:65532";

const text = (path: string, content: string) => ({ path, mode: 0o644, content: Buffer.from(content) });

/** The shared libraries of a program, by glibc's own loader. */
function librariesOf(program: string): string[] {
  const lines = execFileSync("ldd", [program], { encoding: "utf8" }).split("\n");
  return lines.flatMap((line) => /(?:=> )?(\/\S+) \(0x/.exec(line)?.[1] ?? []);
}

/** Node.js with what it needs of a system, and nothing else: no shell, no package manager. */
export function baseLayer(node: string): TarEntry[] {
  const libraries = librariesOf(node).map((path) => ({
    path: path.slice(1),
    mode: 0o755,
    content: readFileSync(path),
  }));
  return tree(
    [
      { path: "nodejs/bin/node", mode: 0o755, content: readFileSync(node) },
      ...libraries,
      text(
        "etc/passwd",
        "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n",
      ),
      text("etc/group", "root:x:0:\nnonroot:x:65532:\n"),
      text("etc/nsswitch.conf", "hosts: files dns\n"),
      // Mozilla's, as this Node.js carries them: those of the machine that builds would differ from machine to machine.
      text("etc/ssl/certs/ca-certificates.crt", `${rootCertificates.join("\n")}\n`),
    ],
    [
      { path: "home/nonroot/", mode: 0o755 },
      { path: "tmp/", mode: 0o1777 },
    ],
  );
}

/** The bundle, at the place where the Dockerfile puts it. */
export function appLayer(): TarEntry[] {
  const files = ["package.json", "LICENSE", ...readdirSync(join(ROOT, DIST)).map((file) => `${DIST}/${file}`)];
  return tree(files.map((file) => ({ path: `app/${file}`, mode: 0o644, content: readFileSync(join(ROOT, file)) })));
}
