import { once } from "node:events";
import { createServer, type Server } from "node:http";
import { listenError } from "../../proxy/cli/options.ts";

/** Returns status and text of a page. */
type Page = () => Promise<{ status: number; text: string; type?: string }>;

/** Serves pages on the address of an option. @throws UsageError if it cannot listen */
export async function servePages(
  option: string,
  where: { host: string; port: number },
  pages: Readonly<Record<string, Page>>,
): Promise<Server> {
  const server = createServer((request, response) => {
    const path = (request.url ?? "/").split("?")[0]!;
    const page = Object.hasOwn(pages, path) ? pages[path] : undefined;
    if (page === undefined) {
      response.writeHead(404, { "content-type": "text/plain" }).end(`known pages: ${Object.keys(pages).join(" ")}\n`);
      return;
    }
    page().then(
      ({ status, text, type }) => response.writeHead(status, { "content-type": type ?? "text/plain" }).end(text),
      (error: unknown) =>
        response.writeHead(500, { "content-type": "text/plain" }).end(`${(error as Error).message}\n`),
    );
  });
  server.listen(where.port, where.host === "" ? undefined : where.host);
  try {
    await once(server, "listening");
  } catch (error) {
    throw listenError(error, option, where);
  }
  return server;
}
