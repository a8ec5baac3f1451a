import { once } from "node:events";
import { get, type IncomingMessage } from "node:http";

/** A reader of server-sent events. */
export interface Reader {
  status: number;
  response: IncomingMessage;
  /** Text received so far. */
  text: () => string;
  /** Data of the received messages of this type; `message` has no `event` field. */
  events: (type?: string) => string[];
  close: () => void;
}

/** Requests a stream of events on a connection of its own. `headers`: more or other fields. */
export async function readEvents(port: number, path: string, headers: Record<string, string> = {}): Promise<Reader> {
  const request = get({ host: "127.0.0.1", port, path, headers, agent: false });
  const [response] = (await once(request, "response")) as [IncomingMessage];
  request.on("error", () => {});
  response.on("error", () => {});
  let text = "";
  response.setEncoding("utf8");
  response.on("data", (chunk: string) => {
    text += chunk;
  });
  const events = (type = "message") =>
    text
      .split("\n\n")
      .slice(0, -1)
      .map((block) => block.split("\n"))
      .filter((lines) => (lines.find((line) => line.startsWith("event: "))?.slice(7) ?? "message") === type)
      .flatMap((lines) => lines.filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)));
  return { status: response.statusCode!, response, text: () => text, events, close: () => request.destroy() };
}

/** Waits until a probe returns true; checks every 20 ms. */
export async function until(probe: () => boolean | Promise<boolean>, what: string, ms = 20_000): Promise<void> {
  for (const began = Date.now(); !(await probe()); ) {
    if (Date.now() - began > ms) throw new Error(`not within ${ms} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
