// The PromQL that both dashboards are made of.

/** As long as it takes for two scrapes at least to be in it. */
export const RATE = "[$__rate_interval]";

/** What series rise by per second, added up, by labels if there are any. */
export const sum = (by: string, series: string): string =>
  `sum${by ? ` by (${by}) ` : ""}(rate(${series}${RATE}))`;
