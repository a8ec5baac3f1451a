import assert from "node:assert/strict";
import { exchange, listen } from "./raw.ts";

const EVERY_MS = 5;
/** Limit of deliveries under way: a slow machine gets no more than it can take. */
const MAX_OPEN = 32;
const RETRY_MS = 200;
const MAX_ATTEMPTS = 5;

/**
 * A webhook receiver, and a sender that delivers to it through a proxy until it is stopped, with retries as in Convoy.
 */
export async function startDeliveries(proxyPort: number) {
  const delivered = new Set<string>();
  const far = await listen((socket) => {
    let text = "";
    socket.on("data", (chunk) => {
      text += chunk;
      const match = /^POST \/hook-(\d+) [\s\S]*\r\n\r\nevent$/.exec(text);
      if (match === null) return;
      delivered.add(match[1]!);
      socket.end("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    });
  });
  let retries = 0;
  const deliver = async (id: number): Promise<void> => {
    for (let attempt = 1; ; attempt++) {
      const head = `POST http://127.0.0.1:${far.port}/hook-${id} HTTP/1.1\r\nHost: x\r\nConnection: close`;
      const answer = await exchange(proxyPort, `${head}\r\nContent-Length: 5\r\n\r\nevent`).catch(() => "");
      if (answer.startsWith("HTTP/1.1 200 ")) return;
      assert.ok(attempt < MAX_ATTEMPTS, `hook ${id} was never delivered: ${answer}`);
      retries++;
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  };
  let sent = 0;
  let going = true;
  const load = (async () => {
    const open = new Set<Promise<void>>();
    while (going) {
      const one = deliver(sent++).finally(() => open.delete(one));
      open.add(one);
      if (open.size >= MAX_OPEN) await Promise.race(open);
      await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
    }
    await Promise.all(open);
  })();
  /** Ends the load; returns the numbers of sent and delivered webhooks, and of failed attempts. */
  const stop = async () => {
    going = false;
    await load;
    await far.close();
    return { sent, delivered: delivered.size, retries };
  };
  return { stop };
}
