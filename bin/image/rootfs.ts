import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { rootCertificates } from "node:tls";
import { DIST, ROOT } from "./bundle.ts";
import { type TarEntry, tree } from "./tar.ts";

/** User `nonroot` of distroless. */
export const USER = "65532:65532";

const text = (path: string, content: string) => ({ path, mode: 0o644, content: Buffer.from(content) });

/** The shared libraries of a program, according to glibc's own loader. */
export function librariesOf(program: string): string[] {
  const lines = execFileSync("ldd", [program], { encoding: "utf8" }).split("\n");
  return lines.flatMap((line) => /(?:=> )?(\/\S+) \(0x/.exec(line)?.[1] ?? []);
}

/** Node.js and its shared libraries, as this machine has them. */
export function machineFiles(node: string): (TarEntry & { content: Buffer })[] {
  const libraries = librariesOf(node).map((path) => ({
    path: path.slice(1),
    mode: 0o755,
    content: readFileSync(path),
  }));
  return [{ path: "nodejs/bin/node", mode: 0o755, content: readFileSync(node) }, ...libraries];
}

/** Node.js and the system files that it needs, without a shell or a package manager. */
export function baseLayer(machine: readonly (TarEntry & { content: Buffer })[]): TarEntry[] {
  return tree(
    [
      ...machine,
      text(
        "etc/passwd",
        "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n",
      ),
      text("etc/group", "root:x:0:\nnonroot:x:65532:\n"),
      text("etc/nsswitch.conf", "hosts: files dns\n"),
      // Mozilla's CA certificates, as Node.js contains them: those of the build machine would differ between machines.
      text("etc/ssl/certs/ca-certificates.crt", `${rootCertificates.join("\n")}\n`),
    ],
    [
      { path: "home/nonroot/", mode: 0o755 },
      { path: "tmp/", mode: 0o1777 },
    ],
  );
}

/** The bundle, at the same path as in the Dockerfile. */
export function appLayer(): TarEntry[] {
  const files = ["package.json", "LICENSE", ...readdirSync(join(ROOT, DIST)).map((file) => `${DIST}/${file}`)];
  return tree(files.map((file) => ({ path: `app/${file}`, mode: 0o644, content: readFileSync(join(ROOT, file)) })));
}
