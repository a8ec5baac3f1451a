import { readFileSync } from "node:fs";
import { createServer, request } from "node:https";
import type { AddressInfo } from "node:net";
import type { Duplex } from "node:stream";
import type { ControlPlane } from "./control-plane.ts";

/** A request that came through. */
export interface Seen {
  method: string;
  path: string;
  user: string;
}

/** An answer in the API server's place. */
export interface Instead {
  status: number;
  headers?: Record<string, string>;
  body?: string;
}

/** Stands between a client and the API server, and makes what networks and servers do to each other. */
export interface FaultProxy {
  url: string;
  port: number;
  /** Everything that came, in order. */
  seen: Seen[];
  /** TLS connections that clients opened. */
  connections: number;
  /** Answers a request itself where this gives an answer. */
  refuse: ((method: string, path: string) => Instead | undefined) | undefined;
  /** Nothing is passed on, in either direction; connections stay open. */
  stalled: boolean;
  /** Cuts the next event of a watch in the middle and closes that connection. */
  cutNextEvent: boolean;
  /** Milliseconds before each request is passed on. */
  delayMs: number;
  /** Closes every connection with a RST. */
  reset(): void;
  /** A kubeconfig of a user that leads here. */
  config(user?: string): string;
  close(): Promise<void>;
}

/** Requests that write, by method. */
export const isWrite = ({ method }: Seen): boolean => method !== "GET";

/** Starts one in front of a control plane. */
export async function startFaultProxy(plane: ControlPlane): Promise<FaultProxy> {
  const { key, cert } = plane.authority.issue("fault-proxy", "/CN=fault-proxy", ["IP:127.0.0.1"]);
  const ca = readFileSync(plane.authority.file);
  const open = new Set<Duplex>();
  const proxy: FaultProxy = {
    url: "",
    port: 0,
    seen: [],
    connections: 0,
    refuse: undefined,
    stalled: false,
    cutNextEvent: false,
    delayMs: 0,
    reset() {
      for (const socket of open) socket.destroy();
    },
    config: (user) => plane.userConfig(user, proxy.url),
    close: async () => {
      proxy.reset();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  const server = createServer({ key: readFileSync(key), cert: readFileSync(cert) }, (incoming, answer) => {
    const [method, path] = [incoming.method!, incoming.url!];
    proxy.seen.push({ method, path, user: incoming.headers.authorization ?? "" });
    const instead = proxy.refuse?.(method, path);
    if (instead !== undefined) {
      incoming.resume();
      answer.writeHead(instead.status, instead.headers).end(instead.body ?? "");
      return;
    }
    if (proxy.stalled) return;
    const outgoing = request(`${plane.url}${path}`, { method, headers: incoming.headers, ca, agent: false }, (back) => {
      answer.writeHead(back.statusCode!, back.headers);
      answer.flushHeaders();
      back.on("data", (chunk: Buffer) => {
        if (proxy.stalled) return;
        if (proxy.cutNextEvent && path.includes("watch=")) {
          proxy.cutNextEvent = false;
          answer.write(chunk.subarray(0, chunk.length / 2), () => incoming.socket.destroy());
          return;
        }
        answer.write(chunk);
      });
      back.on("end", () => {
        if (!proxy.stalled) answer.end();
      });
      back.on("error", () => incoming.socket.destroy());
    });
    outgoing.on("error", () => incoming.socket.destroy());
    incoming.socket.once("close", () => outgoing.destroy());
    if (proxy.delayMs === 0) incoming.pipe(outgoing);
    else setTimeout(() => incoming.pipe(outgoing), proxy.delayMs);
  });
  server.on("secureConnection", (socket: Duplex) => {
    proxy.connections++;
    open.add(socket);
    socket.on("error", () => undefined);
    socket.once("close", () => open.delete(socket));
  });
  server.listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  proxy.port = (server.address() as AddressInfo).port;
  proxy.url = `https://127.0.0.1:${proxy.port}`;
  return proxy;
}
