import { escapeText } from "./escape.ts";
import { ADVICE } from "./feed.ts";
import { ADDRESS_STATES, type PublishedList, statesOf } from "./list.ts";

const STYLE = `
:root { color-scheme: light dark; --text: #1c2430; --soft: #566273; --back: #fff; --card: #f4f6f9; --line: #d5dbe3; --link: #0b57a4 }
@media (prefers-color-scheme: dark) { :root { --text: #e6eaf0; --soft: #a5b0bf; --back: #14181e; --card: #1d232b; --line: #39434f; --link: #8ec1ff } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 52rem; padding: 1.5rem 1rem 3rem; color: var(--text); background: var(--back); font: 1rem/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .5rem; overflow-wrap: anywhere }
h2 { font-size: 1.125rem; margin: 2rem 0 .5rem }
p { margin: .5rem 0 }
.soft { color: var(--soft) }
a { color: var(--link) }
table { width: 100%; border-collapse: collapse }
th, td { text-align: left; vertical-align: top; padding: .5rem .75rem .5rem 0; border-bottom: 1px solid var(--line) }
th { color: var(--soft); font-weight: 600; font-size: .875rem }
code, pre { font: .9375rem/1.6 ui-monospace, monospace }
pre { margin: 0; overflow-wrap: anywhere; padding: .75rem 1rem; background: var(--card); border: 1px solid var(--line); border-radius: .375rem; white-space: pre-wrap; user-select: all }
td.state { white-space: nowrap; font-weight: 600 }
@media (max-width: 30rem) { th, td { padding-right: .5rem; font-size: .875rem } td code { font-size: .8125rem } }
`;

/** A time of the list, to the minute. */
const shown = (time: string): string => `${time.slice(0, 16).replace("T", " ")} UTC`;

/** An address, which the browser breaks only at colons. */
const shownAddress = (address: string): string => `<code>${escapeText(address).replaceAll(":", ":<wbr>")}</code>`;

const time = (text: string): string => `<time datetime="${escapeText(text)}">${escapeText(shown(text))}</time>`;

/**
 * `ips.html`: the list for people, without scripts and external requests. Equal lists give equal bytes. `name`: that of
 * the policy.
 */
export function publishedPage(name: string, list: PublishedList): string {
  const states = [...statesOf(list)];
  const rows = ADDRESS_STATES.flatMap((state) => states.filter(([, is]) => is === state)).map(
    ([address, state]) =>
      `<tr><td>${shownAddress(address)}</td><td class="state">${state}</td><td>${escapeText(ADVICE[state])}</td></tr>`,
  );
  const changes = list.changes.map(
    ({ address, state, since }) =>
      `<tr><td>${time(since)}</td><td>${shownAddress(address)}</td><td class="state">${state}</td></tr>`,
  );
  const addresses =
    rows.length === 0
      ? "<p>No addresses are published.</p>"
      : `<table>
<thead><tr><th scope="col">Address</th><th scope="col">State</th><th scope="col">What you should do</th></tr></thead>
<tbody>
${rows.join("\n")}
</tbody>
</table>
<h2>To copy</h2>
<pre tabindex="0" aria-label="Addresses as networks">${escapeText(list.cidrs.join("\n"))}</pre>`;
  const history =
    changes.length === 0
      ? ""
      : `<h2>Last changes</h2>
<table>
<thead><tr><th scope="col">Time</th><th scope="col">Address</th><th scope="col">New state</th></tr></thead>
<tbody>
${changes.join("\n")}
</tbody>
</table>
`;
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Egress IP addresses of ${escapeText(name)}</title>
<link rel="alternate" type="application/atom+xml" title="Changes" href="ips.atom">
<style>${STYLE}</style>
</head>
<body>
<main>
<h1>Egress IP addresses of ${escapeText(name)}</h1>
<p>Webhooks come only from these addresses. Your allow list must have all of them, also those that are Pending.</p>
<p class="soft">Last change: ${time(list.updatedAt)}. For programs: <a href="ips.txt">ips.txt</a>, <a href="ips.json">ips.json</a>. For feed readers: <a href="ips.atom">ips.atom</a>.</p>
<h2>Addresses</h2>
${addresses}
${history}</main>
</body>
</html>
`;
}
