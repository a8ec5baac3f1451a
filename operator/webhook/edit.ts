import { wideningOf } from "../../proxy/policy/diff/widening.ts";
import { MAX_WARNING_CHARS } from "../injection/inject.ts";
import type { AdmissionAnswer, EditReview } from "./review.ts";

/** A comparison that takes more CPU time, in milliseconds, delays the next one. */
const LONG_MS = 100;
/** Limit of the share of long comparisons: no pod is admitted meanwhile, and anyone who reaches the port can send edits. */
const SHARE = 0.2;

const BUSY = "this edit is not compared, since the edits before took too long; use outrider diff";

let nextAt = Number.NEGATIVE_INFINITY;

function compare({ before, now }: EditReview, at: number): string | undefined {
  if (at < nextAt) return BUSY;
  const began = process.threadCpuUsage();
  const text = wideningOf(before, now);
  const { user, system } = process.threadCpuUsage(began);
  const ms = (user + system) / 1000;
  if (ms > LONG_MS) nextAt = at + ms / SHARE;
  return text;
}

/**
 * Reviews an edit of a policy: always allowed, with a warning if it opens more than its allow lists say. `at`: monotonic
 * time, in milliseconds.
 */
export function reviewEdit(review: EditReview, at = performance.now()): AdmissionAnswer {
  const text = compare(review, at);
  return text === undefined ? {} : { warnings: [`outrider: ${text}`.slice(0, MAX_WARNING_CHARS)] };
}
