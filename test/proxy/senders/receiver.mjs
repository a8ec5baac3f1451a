// The receivers of a network namespace: plain on 80 and TLS on 443 of the public addresses, and on the internal ones a
// trap. Prints "ready", then a line for each connection: "hit ADDRESS PORT".
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { createServer as createTrap } from "node:net";

const [publicAddresses, trapAddresses, key, cert] = process.argv.slice(2);
/** Longer than the time limits for DNS and connecting that the tests set. */
const SLOW_MS = 1200;
/** Reports what came, every field as it came. `/slow`: late, and in two parts. `/refused`: 413, before the body. */
const answer = (request, response) => {
  if (request.url === "/refused") {
    response.writeHead(413, { Connection: "close" }).end("too large");
    return;
  }
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    const fields = [];
    for (let i = 0; i < request.rawHeaders.length; i += 2) fields.push(request.rawHeaders.slice(i, i + 2).join(": "));
    const body = Buffer.concat(chunks).toString();
    const text = `got ${[`${request.method} ${request.url}`, ...fields, body].join(" | ")}`;
    if (request.url !== "/slow") {
      response.end(text);
      return;
    }
    setTimeout(() => response.write(text.slice(0, 3)), SLOW_MS);
    setTimeout(() => response.end(text.slice(3)), SLOW_MS + 100);
  });
};
const list = (text) => text.split(",").filter((part) => part !== "");
const servers = [];
for (const address of list(publicAddresses)) {
  servers.push([createServer(answer), 80, address]);
  servers.push([createTlsServer({ key: readFileSync(key), cert: readFileSync(cert) }, answer), 443, address]);
}
for (const address of list(trapAddresses))
  for (const port of [80, 443]) servers.push([createTrap((s) => s.destroy()), port, address]);
let waiting = servers.length;
for (const [server, port, host] of servers) {
  server.on("connection", () => console.log(`hit ${host} ${port}`));
  server.listen(port, host, () => {
    if (--waiting === 0) console.log("ready");
  });
}
