/** etcd's HTTP gateway (https://etcd.io/docs/v3.6/dev-guide/api_grpc_gateway/): integers are texts, bytes are base64. */
async function call(url: string, path: string, body: object): Promise<{ header: { revision: string } }> {
  const response = await fetch(`${url}${path}`, { method: "POST", body: JSON.stringify(body) });
  if (!response.ok) throw new Error(`etcd ${path}: ${response.status} ${await response.text()}`);
  return (await response.json()) as { header: { revision: string } };
}

/** Deletes all history up to now. */
export async function compactEtcd(url: string): Promise<void> {
  const { header } = await call(url, "/v3/kv/range", { key: Buffer.from("a").toString("base64") });
  await call(url, "/v3/kv/compaction", { revision: header.revision, physical: true });
}
