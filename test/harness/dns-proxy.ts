import type { TestContext } from "node:test";
import { startDns } from "./dns.ts";
import { startProxy } from "./proxy.ts";
import { exchange, listen } from "./raw.ts";

/** Answers the queries of one test, as {@link startDns} takes it. */
export type Zone = Parameters<typeof startDns>[0];

/**
 * A proxy whose only resolver is the server of `zone`, and a receiver that answers every request. All end with the test.
 * `args`: further options of the proxy. `get` sends one request for the receiver by a name, on a connection of its own.
 */
export async function startDnsProxy(t: TestContext, zone: Zone, args: string[]) {
  const dns = await startDns(zone);
  const far = await listen((socket) =>
    socket.on("data", () => socket.end("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi")),
  );
  const proxy = await startProxy({ policy: {}, args: ["--resolver", dns.address, ...args] });
  t.after(async () => {
    await proxy.stop();
    await far.close();
    await dns.close();
  });
  const get = (host: string) =>
    exchange(proxy.port, `GET http://${host}:${far.port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`);
  return { dns, far, proxy, get };
}
