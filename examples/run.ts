import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

/** `make run`: starts an echo server and a proxy with examples/acl.yaml, and prints commands to try. */

const root = new URL("..", import.meta.url).pathname;
const outrider = join(root, "bin/outrider");
const port = process.env.PORT ?? "4750";
const password = randomBytes(9).toString("base64url");
const folder = mkdtempSync(join(tmpdir(), "outrider-"));
const hosts = join(folder, "hosts");
writeFileSync(hosts, "127.0.0.1 hooks.example.com denied.example\n10.0.0.5 internal.example\n");

const children: ChildProcess[] = [];

function stop(status: number): void {
  for (const child of children) child.kill("SIGTERM");
  rmSync(folder, { recursive: true, force: true });
  process.exitCode = status;
}

/** Starts a program; when one program ends, all end. */
function start(args: string[], env: NodeJS.ProcessEnv): ChildProcess {
  const child = spawn(outrider, args, { env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "pipe"] });
  child.stderr!.pipe(process.stderr);
  children.push(child);
  child.once("exit", (code) => stop(code ?? 0));
  return child;
}

const echo = start(["echo", "--listen", "127.0.0.1:0"], {});
const lines = createInterface({ input: echo.stdout! });
lines.once("line", (line) => {
  const echoPort = line.slice(line.lastIndexOf(":") + 1);
  const args = ["proxy", "--policy", join(root, "examples/acl.yaml"), "--listen", `127.0.0.1:${port}`];
  args.push("--admin", "127.0.0.1:0", "--hosts", hosts, "--allow-cidr", "127.0.0.0/8");
  const proxy = start(args, { PROXY_PASSWORD: password, OUTRIDER_DRAIN_DELAY_SECONDS: "0" });
  proxy.stdout!.pipe(process.stdout);
  createInterface({ input: proxy.stderr! }).on("line", (text) => {
    if (text.includes('"msg":"listening"')) explain(echoPort);
  });
});

/** Commands to try, once the programs run. */
function explain(echoPort: string): void {
  const curl = `curl -x http://:${password}@127.0.0.1:${port}`;
  console.log(`
The proxy serves examples/acl.yaml on port ${port}; its password is ${password}
In another terminal:

  allowed, answers the caller's address:
    ${curl} http://hooks.example.com:${echoPort}/ip
  denied by the list:
    ${curl} http://denied.example:${echoPort}/ip
  allowed by name, but it resolves to an internal address (add -p for CONNECT, as https does):
    ${curl} http://internal.example:${echoPort}/ip

The records of all requests follow here. Ctrl-C stops both programs.
`);
}
process.once("SIGINT", () => stop(0));
process.once("SIGTERM", () => stop(0));
