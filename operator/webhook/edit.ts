import { wideningOf } from "../../proxy/policy/diff/widening.ts";
import { MAX_WARNING_CHARS } from "../injection/inject.ts";
import type { AdmissionAnswer, EditReview } from "./review.ts";

/** Reviews an edit of a policy: always allowed, with a warning if it opens more than its allow lists say. */
export function reviewEdit({ before, now }: EditReview): AdmissionAnswer {
  const text = wideningOf(before, now);
  return text === undefined ? {} : { warnings: [`outrider: ${text}`.slice(0, MAX_WARNING_CHARS)] };
}
