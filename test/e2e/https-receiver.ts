import { readFileSync } from "node:fs";
import { createServer } from "node:https";

/** An HTTPS receiver: answers with the address of the sender, and never for the path `/hold`. Arguments: address, key, certificate. */

const [address, key, cert] = process.argv.slice(2) as [string, string, string];
createServer({ key: readFileSync(key), cert: readFileSync(cert) }, (request, response) => {
  if (request.url !== "/hold") response.end(`${request.socket.remoteAddress}\n`);
  else response.writeHead(200).write("held\n");
}).listen(443, address);
