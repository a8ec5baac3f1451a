// The receivers of a network namespace: TLS on 443, plain on 80, and on the internal addresses a trap that tells
// every connection. Prints one line for each connection: "hit ADDRESS PORT".
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { createServer as createTrap } from "node:net";

const [publicAddresses, trapAddresses, key, cert] = process.argv.slice(2);
const answer = (request, response) => {
  request.resume().on("end", () => response.end(`got ${request.method} ${request.url} for ${request.headers.host}`));
};
const servers = [];
for (const address of publicAddresses.split(",")) {
  servers.push([createServer(answer), 80, address]);
  servers.push([createTlsServer({ key: readFileSync(key), cert: readFileSync(cert) }, answer), 443, address]);
}
for (const address of trapAddresses.split(","))
  for (const port of [80, 443]) servers.push([createTrap((s) => s.destroy()), port, address]);
let waiting = servers.length;
for (const [server, port, host] of servers) {
  server.on("connection", () => console.log(`hit ${host} ${port}`));
  server.listen(port, host, () => {
    if (--waiting === 0) console.log("ready");
  });
}
