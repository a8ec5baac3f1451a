import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { createReadStream, readFileSync, statSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { tempFolder } from "../harness/proxy.ts";

/** Credentials of the registry. */
export const USER = { username: "puller", password: "s3cret-of-the-registry" };
const BASIC = `Basic ${Buffer.from(`${USER.username}:${USER.password}`).toString("base64")}`;

/**
 * A registry with one image on loopback, which requires Basic authentication: the pull part of
 * https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md. containerd uses plain HTTP for loopback.
 */
export class Registry {
  /** Requests for manifests with the right credentials. */
  pulls = 0;
  /** Requests that were refused. */
  refused = 0;
  readonly #blobs: string;
  readonly #manifest: { mediaType: string; digest: string };
  readonly #server: Server;

  /** `archive`: an OCI archive with one image. */
  constructor(archive: string) {
    const folder = tempFolder();
    execFileSync("tar", ["-xf", archive, "-C", folder]);
    this.#blobs = join(folder, "blobs/sha256");
    this.#manifest = JSON.parse(readFileSync(join(folder, "index.json"), "utf8")).manifests[0];
    this.#server = createServer((request, response) => this.#answer(request, response));
  }

  /** Listens on loopback; returns the host and port of image names. */
  async start(): Promise<string> {
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  stop(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }

  #answer({ url, method, headers }: IncomingMessage, response: ServerResponse): void {
    if (headers.authorization !== BASIC) {
      this.refused++;
      response.writeHead(401, { "www-authenticate": 'Basic realm="registry"' }).end();
      return;
    }
    const [, kind, reference] = /^\/v2\/outrider\/(manifests|blobs)\/([\w.:-]+)/.exec(url!) ?? [];
    if (kind === undefined) {
      response.writeHead(url === "/v2/" ? 200 : 404).end();
      return;
    }
    if (kind === "manifests") this.pulls++;
    const digest = kind === "manifests" ? this.#manifest.digest : reference!;
    const type = kind === "manifests" ? this.#manifest.mediaType : "application/octet-stream";
    const file = join(this.#blobs, digest.replace("sha256:", ""));
    const { size } = statSync(file);
    response.writeHead(200, { "content-type": type, "content-length": size, "docker-content-digest": digest });
    if (method === "HEAD") response.end();
    else createReadStream(file).pipe(response);
  }
}
