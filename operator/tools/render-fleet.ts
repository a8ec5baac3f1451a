import type { ConditionView, FleetView } from "../overview/overview.ts";
import { age, type Cell, type Colour, type Paint, safe, shortHash, table } from "./text.ts";

/** Text forms of fleets. Pure. */

const statusColour = (status: string): Colour | undefined =>
  status === "True" ? "green" : status === "False" ? "red" : "yellow";
const status = (text: string): Cell => ({ text, colour: statusColour(text) });

const STATE_COLOURS: Readonly<Record<string, Colour>> = {
  Verified: "green",
  Mismatch: "red",
  covered: "green",
  missed: "red",
  stale: "yellow",
};
const state = (text: string): Cell => ({ text, colour: STATE_COLOURS[text] });

/** Whether a condition of the list deserves a line. WorkloadsInjected is Unknown before the first pod. */
const isProblem = ({ type, status }: ConditionView): boolean => status === "False" && type !== "Ready";

const addressText = ({ addresses }: FleetView): string => addresses.map(({ address }) => address).join(",");

/** Reads better than an empty cell. */
const hintLines = (fleets: readonly FleetView[], paint: Paint): string[] => {
  const by = new Map<string, string[]>();
  for (const { name, hints } of fleets) for (const hint of hints) by.set(hint, [...(by.get(hint) ?? []), name]);
  return [...by].map(([hint, names]) => {
    const who = fleets.length === 1 ? "" : `${names.slice(0, 3).join(", ")}${names.length > 3 ? ", ..." : ""}: `;
    return `${paint("hint", "yellow")}  ${safe(who + hint)}`;
  });
};

interface ListOptions {
  /** All namespaces. */
  all: boolean;
  wide: boolean;
  now: number;
}

/** A line for each fleet, then what is wrong. */
export function renderList(fleets: readonly FleetView[], { all, wide, now }: ListOptions, paint: Paint): string {
  const head = [
    ...(all ? ["NAMESPACE"] : []),
    ...["NAME", "READY", "MODE", "PROVIDER", "VERIFIED", "PROXIES", "PODS"],
    ...(wide ? ["IPS", "HASH", "PRESET", "ENDPOINT"] : []),
    "AGE",
  ];
  const rows = fleets.map((fleet): Cell[] => [
    ...(all ? [fleet.namespace] : []),
    fleet.name,
    status(fleet.ready),
    fleet.mode,
    fleet.provider,
    fleet.verified,
    fleet.available,
    fleet.covered,
    ...(wide ? [addressText(fleet), shortHash(fleet.hash), fleet.preset, fleet.endpoint ?? "-"] : []),
    age(fleet.createdAt, now),
  ]);
  const problems = fleets.flatMap((fleet) =>
    fleet.conditions.filter(isProblem).map((condition) => {
      const who = all ? `${fleet.namespace}/${fleet.name}` : fleet.name;
      return `${safe(who)}  ${paint(`${safe(condition.type)}=${safe(condition.status)}`, "red")}  ${safe(`${condition.reason}: ${condition.message}`)}`;
    }),
  );
  const hints = hintLines(fleets, paint);
  const blocks = [table([head, ...rows], paint), problems, hints].filter((lines) => lines.length > 0);
  return blocks.map((lines) => lines.join("\n")).join("\n\n");
}

function section(title: string, lines: readonly string[], paint: Paint): string[] {
  return lines.length === 0 ? [] : ["", paint(title, "bold"), ...lines];
}

/** Everything about one fleet. */
export function renderFleet(fleet: FleetView, now: number, paint: Paint): string {
  const { conditions, addresses, proxies, events } = fleet;
  const facts: [string, Cell][] = [
    ["ready", status(fleet.ready)],
    ["mode", fleet.mode],
    ["preset", fleet.preset],
    ["provider", fleet.provider],
    ["policy", fleet.hash ?? "-"],
    ["endpoint", fleet.endpoint ?? "-"],
    ["age", age(fleet.createdAt, now)],
  ];
  const rows = (head: string[], list: readonly Cell[][]) =>
    list.length === 0 ? ["  none"] : table([head, ...list], paint, "  ");
  const inner = "  ";
  return [
    paint(safe(`${fleet.namespace}/${fleet.name}`), "bold"),
    ...table(facts, paint, inner),
    ...section(
      "Conditions",
      rows(
        ["TYPE", "STATUS", "AGE", "REASON"],
        conditions.map(({ type, status: text, since, reason, message, current }) => [
          type,
          status(text),
          age(since, now),
          `${reason}: ${message}${current ? "" : " (of an older spec)"}`,
        ]),
      ),
      paint,
    ),
    ...section(
      "Addresses",
      rows(
        ["ADDRESS", "PHASE", "STATE", "NODE", "SEEN", "AGE"],
        addresses.map((one) => [
          one.address,
          one.phase,
          state(one.state),
          one.node ?? "-",
          one.observed ?? "-",
          age(one.since, now),
        ]),
      ),
      paint,
    ),
    ...section(
      "Proxies",
      proxies === null
        ? ["  not shown: you may not list pods"]
        : rows(
            ["POD", "READY", "NODE", "ADDRESS", "VERSION", "HASH", "PROBLEM"],
            proxies.map((one) => [
              one.pod,
              status(one.ready ? "True" : "False"),
              one.node ?? "-",
              one.address ?? "-",
              one.version ?? (one.image === null ? "-" : `image ${one.image}`),
              hashCell(one.hash, fleet.hash),
              one.problem ?? "-",
            ]),
          ),
      paint,
    ),
    ...section("Pods", podLines(fleet, paint), paint),
    ...section(
      "Events",
      events === null
        ? ["  not shown: you may not list events"]
        : rows(
            ["AGE", "TYPE", "REASON", "MESSAGE"],
            events.map((one) => [
              age(one.last, now),
              { text: one.type, colour: one.type === "Warning" ? "yellow" : undefined },
              one.count > 1 ? `${one.reason} (${one.count}x)` : one.reason,
              one.message,
            ]),
          ),
      paint,
    ),
    ...(fleet.hints.length === 0 ? [] : ["", ...hintLines([fleet], paint)]),
  ].join("\n");
}

/** Pods with a reason that the text shows. */
const MAX_PODS = 50;

function podLines({ pods }: FleetView, paint: Paint): string[] {
  if (pods === null) return ["  not shown: you may not list pods, or the policy injects nothing or is rejected"];
  if (pods.length === 0) return ["  none requests this policy"];
  const others = pods.filter(({ state }) => state !== "covered");
  const count = pods.length - others.length;
  const summary = `  ${count} of ${pods.length} ${pods.length === 1 ? "pod" : "pods"} covered`;
  if (others.length === 0) return [summary];
  const shown = others.slice(0, MAX_PODS);
  const list = shown.map((one): Cell[] => [one.pod, state(one.state), one.client ?? "-", one.reason ?? "-"]);
  const more = others.length > shown.length ? [`  and ${others.length - shown.length} more (-o json has all)`] : [];
  return [summary, ...table([["POD", "STATE", "CLIENT", "REASON"], ...list], paint, "  "), ...more];
}

function hashCell(hash: string | null, wanted: string | null): Cell {
  return {
    text: shortHash(hash),
    colour: hash === null || wanted === null ? undefined : hash === wanted ? "green" : "yellow",
  };
}
