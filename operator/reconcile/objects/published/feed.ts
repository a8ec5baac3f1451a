import { escapeText } from "./escape.ts";
import type { AddressChange, AddressState, PublishedList } from "./list.ts";

/** Advice to receivers for each state. */
export const ADVICE: Readonly<Record<AddressState, string>> = {
  Pending: "Add it to your allow list now. Webhooks will come from it later.",
  Active: "Webhooks come from it. It must be on your allow list.",
  Retiring: "Webhooks may still come from it. Keep it until it is removed from this list.",
  Removed: "No webhooks come from it anymore. Remove it from your allow list.",
};

/** The policy whose addresses are published. */
export interface FeedOf {
  name: string;
  uid: string;
}

/** Identifier that does not change (RFC 4287 §4.2.6), as a tag URI (RFC 4151). */
const idOf = ({ uid }: FeedOf, ...parts: string[]): string =>
  `tag:egress.outrider.dev,2026:${[uid, ...parts].join("/")}`;

function entry(policy: FeedOf, { address, state, since }: AddressChange): string {
  return `  <entry>
    <id>${escapeText(idOf(policy, address, state, since))}</id>
    <title>${escapeText(`${address} is ${state}`)}</title>
    <updated>${escapeText(since)}</updated>
    <content type="text">${escapeText(ADVICE[state])}</content>
  </entry>
`;
}

/** `ips.atom`: the changes of a list as an Atom feed (RFC 4287). Equal lists give equal bytes. */
export function publishedFeed(policy: FeedOf, { changes, updatedAt }: PublishedList): string {
  return `<?xml version="1.0" encoding="utf-8"?>
<feed xmlns="http://www.w3.org/2005/Atom">
  <id>${escapeText(idOf(policy))}</id>
  <title>${escapeText(`Egress IP addresses of ${policy.name}`)}</title>
  <updated>${escapeText(updatedAt)}</updated>
  <author><name>outrider</name></author>
  <link rel="self" type="application/atom+xml" href="ips.atom"/>
  <link rel="alternate" type="text/html" href="ips.html"/>
${changes.map((change) => entry(policy, change)).join("")}</feed>
`;
}
