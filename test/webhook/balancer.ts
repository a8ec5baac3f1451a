import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { connect as connectTLS } from "node:tls";

/** Balances connections like a Service: each new one uses the next endpoint, and open ones keep theirs. */
export interface Balancer {
  port: number;
  /** Ports of the endpoints, as long as they are ready. */
  endpoints: Set<number>;
  /** Connections that were opened so far. */
  connections: number;
  /** Closes every connection, so that the next requests need new ones. */
  reset(): void;
  close(): Promise<void>;
}

/** Starts one on a port of 127.0.0.1; without an endpoint it refuses connections by closing them. */
export async function startBalancer(): Promise<Balancer> {
  const open = new Set<Socket>();
  let turn = 0;
  const server = createServer((client) => {
    balancer.connections++;
    const ports = [...balancer.endpoints];
    const port = ports[turn++ % ports.length];
    client.on("error", () => undefined);
    if (port === undefined) {
      client.resetAndDestroy();
      return;
    }
    const upstream = connect(port, "127.0.0.1");
    for (const [one, other] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      one.setNoDelay(true);
      open.add(one);
      one.on("error", () => other.destroy());
      one.once("close", () => {
        open.delete(one);
        other.destroy();
      });
      one.pipe(other);
    }
  });
  const balancer: Balancer = {
    port: 0,
    endpoints: new Set(),
    connections: 0,
    reset: () => {
      for (const socket of open) socket.destroy();
    },
    close: async () => {
      balancer.reset();
      server.close();
      await once(server, "close");
    },
  };
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  balancer.port = (server.address() as AddressInfo).port;
  return balancer;
}

/** The certificate that a server shows, as PEM. */
export function shownBy(port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connectTLS({ host: "127.0.0.1", port, rejectUnauthorized: false }, () => {
      resolve(socket.getPeerX509Certificate()!.toString());
      socket.destroy();
    });
    socket.on("error", reject);
  });
}
