import assert from "node:assert/strict";
import { once } from "node:events";
import { Agent, createServer, type IncomingHttpHeaders, request } from "node:http";
import type { Socket } from "node:net";
import { after, before, test } from "node:test";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../harness/proxy.ts";
import { exchange, listen, listenOnNewPort, RawClient } from "../harness/raw.ts";

/** Framing fields that Connection nominates as hop-by-hop, and bodies that are not complete: both can hide a request. */

let proxy: ProxyHandle;
before(async () => {
  proxy = await startProxy({ policy: {}, args: OPEN_LOOPBACK, hosts: "127.0.0.1 a.example\n" });
});
after(async () => {
  assert.equal(await proxy.stop(), 0);
});

const HIDDEN = "GET /hidden HTTP/1.1\r\nHost: hidden\r\n\r\n";
const BODIES = {
  "content-length": `Content-Length: ${HIDDEN.length}\r\n\r\n${HIDDEN}`,
  "transfer-encoding": `Transfer-Encoding: chunked\r\n\r\n${HIDDEN.length.toString(16)}\r\n${HIDDEN}\r\n0\r\n\r\n`,
};
const NOMINATIONS = ["Connection: $, host", "Proxy-Connection: $, Host", "Connection: keep-alive, HOST , $"];

for (const [name, body] of Object.entries(BODIES)) {
  test(`a request that nominates ${name} keeps its framing and Host`, async () => {
    for (const nomination of NOMINATIONS) {
      const line = nomination.replace("$", name.toUpperCase());
      const seen: { url: string; hosts: string[]; body: string }[] = [];
      const far = createServer((message, response) => {
        let text = "";
        message.setEncoding("latin1").on("data", (chunk: string) => {
          text += chunk;
        });
        message.on("end", () => {
          seen.push({ url: message.url!, hosts: message.headersDistinct.host!, body: text });
          response.end("ok");
        });
      });
      const port = await listenOnNewPort(far);
      const uri = `http://a.example:${port}`;
      const client = await RawClient.open(proxy.port);
      client.socket.write(`POST ${uri}/outer HTTP/1.1\r\nHost: x\r\n${line}\r\n${body}`, "latin1");
      await client.until(() => /\r\n\r\n[\s\S]*ok/.test(client.text), "first answer");
      client.socket.write(`GET ${uri}/next HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`);
      await client.untilEnd();
      client.socket.destroy();
      const hosts = [`a.example:${port}`];
      assert.deepEqual(seen, [
        { url: "/outer", hosts, body: HIDDEN },
        { url: "/next", hosts, body: "" },
      ]);
      far.close();
      far.closeAllConnections();
    }
  });

  test(`a response that nominates ${name} keeps its framing`, async () => {
    const answer = body.replaceAll(HIDDEN, "HTTP/1.1 200 OK\r\nX-Two: 2\r\n\r\n".padEnd(HIDDEN.length));
    const far = await listen((socket) => {
      socket.on("data", () => socket.write(`HTTP/1.1 200 OK\r\nX-One: 1\r\nConnection: ${name}\r\n${answer}`));
    });
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    const get = async (): Promise<{ headers: IncomingHttpHeaders; text: string; socket: Socket }> => {
      const path = `http://a.example:${far.port}/`;
      const sent = request({ host: "127.0.0.1", port: proxy.port, path, agent, timeout: 10_000 }).end();
      sent.on("timeout", () => sent.destroy(new Error("the response has no end")));
      const [response] = await once(sent, "response");
      const { socket } = response;
      let text = "";
      for await (const chunk of response) text += chunk;
      return { headers: response.headers, text, socket };
    };
    const [first, second] = [await get(), await get()];
    for (const { headers, text } of [first, second]) {
      assert.deepEqual([headers["x-one"], headers["x-two"]], ["1", undefined]);
      assert.equal(text.length, HIDDEN.length);
      assert.match(text, /^HTTP\/1\.1 200 OK\r\nX-Two: 2/);
    }
    assert.equal(second.socket, first.socket, "the client connection stays in step");
    agent.destroy();
    await far.close();
  });
}

for (const framing of ["Content-Length: 200", "Transfer-Encoding: chunked"]) {
  test(`does not reuse an upstream that answers before the body ends (${framing})`, async () => {
    let connections = 0;
    const far = await listen((socket) => {
      connections++;
      socket.on("end", () => socket.end());
      socket.once("data", () => socket.write("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly"));
    });
    const uri = `http://a.example:${far.port}`;
    const client = await RawClient.open(proxy.port);
    // Only later requests of a client take an upstream that another client has left.
    const other = await RawClient.open(proxy.port);
    const elsewhere = await listen((socket) => {
      socket.once("data", () => socket.end("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst"));
    });
    other.socket.write(`GET http://a.example:${elsewhere.port}/ HTTP/1.1\r\nHost: x\r\n\r\n`);
    await other.untilText("first");
    client.socket.write(`POST ${uri}/ HTTP/1.1\r\nHost: x\r\n${framing}\r\n\r\n5\r\nab`);
    await client.untilText("early");
    assert.match(client.text, /^HTTP\/1\.1 200 OK\r\n[\s\S]*\r\nConnection: close\r\n\r\nearly$/);
    // The rest of the body, which must not become a request.
    client.socket.write(`GET ${uri}/hidden HTTP/1.1\r\nHost: x\r\n\r\n`);
    other.socket.write(`GET ${uri}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`);
    await other.untilEnd();
    assert.match(other.text, /firstHTTP\/1\.1 200 OK\r\n[\s\S]*early$/);
    other.socket.destroy();
    await client.untilEnd();
    assert.equal(connections, 2);
    assert.equal(client.text.split("HTTP/1.1").length, 2);
    client.socket.destroy();
    await proxy.untilStatus((status) => status.connections === 0);
    // Records come in order: a later one shows that there are no more of this target.
    await exchange(proxy.port, `GET http://10.0.0.5:${far.port}/ HTTP/1.1\r\nHost: x\r\n\r\n`);
    await proxy.waitRecord(({ target }) => target === `10.0.0.5:${far.port}`);
    assert.equal(proxy.records().filter(({ target }) => target === `a.example:${far.port}`).length, 2);
    await elsewhere.close();
    await far.close();
  });
}
