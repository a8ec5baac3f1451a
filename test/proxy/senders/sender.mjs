// A sender on Node's fetch with NODE_USE_ENV_PROXY=1; the CA comes by NODE_EXTRA_CA_CERTS.
try {
  const response = await fetch(process.argv[2], { method: "POST", body: '{"event":"paid"}' });
  console.log(response.status, response.statusText);
  console.log(await response.text());
  process.exitCode = response.ok ? 0 : 1;
} catch (error) {
  console.log(String(error.cause?.message ?? error.message), String(error.cause?.cause?.message ?? ""));
  process.exitCode = 1;
}
