import type { Source } from "./source-address.ts";

/** An egress path with its own proof: a source address, or a family where the machine chooses the source. */
export interface Route {
  /** The source address, or `ipv4`, `ipv6`. `/status` and log lines call it `way`. */
  key: string;
  family: 4 | 6;
  /** The source to bind; absent: the machine chooses. */
  source?: Source;
}

/** The egress paths for a destination host; null: no source address has that family. */
export type Routes = Readonly<Record<4 | 6, Route | null>>;
