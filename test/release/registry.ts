import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { freePort, Program } from "../cluster/processes.ts";
import { tempFolder } from "../harness/proxy.ts";

/** Debian's docker-registry on loopback, with Basic authentication. */

const USER = "releaser:s3cret-of-the-release";
/** The password by bcrypt, which is the only hash that the registry knows. */
const HTPASSWD = "releaser:$2b$05$abcdefghijklmnopqrstuuDa9w0ehoSF2nXKxM0AiqJtz3R9dGKQm\n";

export interface Registry {
  /** Host and port of names. */
  host: string;
  /** A home whose docker configuration has these credentials. */
  home(pair?: string): string;
  stop(): Promise<void>;
}

/** Starts a registry with an empty store. */
export async function startRegistry(): Promise<Registry> {
  const folder = tempFolder();
  const host = `127.0.0.1:${await freePort()}`;
  const file = (name: string) => join(folder, name);
  writeFileSync(file("htpasswd"), HTPASSWD);
  const config = {
    version: "0.1",
    log: { level: "warn", accesslog: { disabled: true } },
    storage: { filesystem: { rootdirectory: file("store") } },
    auth: { htpasswd: { realm: "registry", path: file("htpasswd") } },
    http: { addr: host, secret: "test" },
  };
  writeFileSync(file("config.yml"), JSON.stringify(config));
  const { PATH } = process.env;
  const program = new Program("docker-registry", ["docker-registry", "serve", file("config.yml")], file("log"), {
    PATH,
  });
  program.start();
  while (!(await isUp(host))) {
    if (!program.running) throw new Error(`docker-registry has ended:\n${program.tail}`);
    await sleep(50);
  }
  return {
    host,
    home: (pair = USER) => {
      const home = tempFolder();
      mkdirSync(join(home, ".docker"));
      const auths = { [host]: { auth: Buffer.from(pair).toString("base64") } };
      writeFileSync(join(home, ".docker/config.json"), JSON.stringify({ auths }));
      return home;
    },
    stop: () => program.stop(),
  };
}

const isUp = (host: string): Promise<boolean> =>
  fetch(`http://${host}/v2/`).then(
    ({ status }) => status === 401,
    () => false,
  );
