import { bundleOf, type Certificate, MAX_AUTHORITIES, readCertificates } from "./lifecycle.ts";

/** caBundle of mounted certificates while replicas may serve certificates of different authorities. Pure. */

/** Whether a list has every certificate of another one. */
export function hasAuthorities(list: readonly Certificate[], others: readonly Certificate[]): boolean {
  return others.every(({ x509 }) => list.some((one) => one.x509.raw.equals(x509.raw)));
}

/** Certificates of a bundle (PEM) that are not among these. */
export function otherAuthorities(bundle: string, authorities: readonly Certificate[]): Certificate[] {
  return readCertificates(bundle).filter((one) => !hasAuthorities(authorities, [one]));
}

/**
 * The bundle (PEM) to write: the mounted authorities, and `kept` ones of the current bundles. A bundle that has all of
 * them already is returned as it is: replicas whose volumes differ would otherwise overwrite each other's order.
 */
export function mergedBundle(
  bundles: readonly string[],
  authorities: readonly Certificate[],
  kept: readonly Certificate[],
): string {
  const wanted = [...authorities, ...kept].slice(0, Math.max(authorities.length, MAX_AUTHORITIES));
  const isThere = (bundle: string) => {
    const current = readCertificates(bundle);
    return hasAuthorities(current, wanted) && hasAuthorities(wanted, current);
  };
  const [first] = bundles;
  if (first !== undefined && isThere(first)) return first;
  return bundleOf({ authorities: wanted });
}
