// What /api/v1/summary answers: docs/api.md.

export interface Quantiles { count: number; mean: number; p50: number; p95: number; p99: number }

export interface Rates {
  seconds: number;
  requests: number;
  rps: number;
  errors: number;
  error_ratio: number | null;
  aborts: number;
  output_tokens: number;
  tokens_per_second: number;
  wasted_tokens: number;
  in_flight_max: number;
  ttft: Quantiles | null;
  itl: Quantiles | null;
  tpot: Quantiles | null;
  e2e: Quantiles | null;
}

export type Role = "server" | "client";

export interface Key { role: Role; server: string; model: string }

export interface Total extends Key {
  in_flight: number;
  streaming: number;
  windows: Record<string, Rates>;
}

/** Names of the arrays that a series has, one number for each second. */
export const METRICS = [
  "requests", "errors", "aborts", "output_tokens", "in_flight",
  "ttft_p50", "ttft_p99", "itl_p50", "itl_p99", "e2e_p50", "e2e_p99",
] as const;
export type Metric = (typeof METRICS)[number];

export type Points = Key & Record<Metric, (number | null)[]>;

export interface History {
  start: number;
  seconds: number;
  totals: Points[];
  series: Points[];
  left_out: number;
}

export interface Stream extends Key {
  endpoint: string;
  client: string;
  pid: number;
  tls: boolean;
  stream: boolean;
  status: number | null;
  start_ns: number;
  age: number;
  ttft: number | null;
  tokens: number;
  tokens_per_second: number | null;
  stall: number | null;
}

export interface Ended extends Key {
  at: number;
  why: "failed" | "client_left" | "incomplete" | "slow_first_token" | "stalled";
  outcome: string;
  status: number | null;
  endpoint: string;
  client: string;
  start_ns: number;
  end_ns: number;
  ttft_ns: number | null;
  max_stall_ns: number | null;
  output_tokens: number | null;
}

export interface Agent {
  version: string;
  backend: string | null;
  start_time: number | null;
  cpu_seconds: number | null;
  resident_bytes: number | null;
  targets: number;
  connections: number;
  records: number;
  lost_records: number;
  lost_bytes: number;
  incomplete: number;
}

export interface Summary {
  now: number;
  windows: string[];
  totals: Total[];
  servers: Total[];
  agent: Agent;
  history: History;
  running: number;
  streams: Stream[];
  ended: Ended[];
}

/** Everything, with the last so many seconds one by one. */
export async function summary(history: number, signal: AbortSignal): Promise<Summary> {
  const answer = await fetch(`api/v1/summary?history=${history}&streams=1&ended=1`, { signal });
  if (!answer.ok) throw new Error(`the agent answered ${answer.status}`);
  return (await answer.json()) as Summary;
}

export const keyOf = (k: Key): string => `${k.role}\n${k.server}\n${k.model}`;
