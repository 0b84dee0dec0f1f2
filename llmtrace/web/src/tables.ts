// Which tables there are.

import { type Ended, type Stream, type Total, keyOf } from "./api";
import { need } from "./dom";
import { NONE, clock, number, percent, time } from "./format";
import { type Column, Table } from "./table";

/** A stream that stands still for so long, in seconds, is looked at twice. */
const STALL = { warn: 1, bad: 5 };

const TTFT = "Time to first token";

const stalled = (s: Stream): "" | "warn" | "bad" => {
  const stall = s.stall ?? 0;
  return stall >= STALL.bad ? "bad" : stall >= STALL.warn ? "warn" : "";
};
const name = (text: string): string => text || NONE;

export function servers(window: () => string, onChoose: (row: Total) => void): Table<Total> {
  const of = (row: Total) => row.windows[window()];
  const columns: Column<Total>[] = [
    { id: "server", title: "Server", value: (r) => r.server, text: (r) => name(r.server) },
    { id: "model", title: "Model", value: (r) => r.model, text: (r) => name(r.model) },
    { id: "in_flight", title: "In flight", numeric: true, value: (r) => r.in_flight, text: (r) => number(r.in_flight) },
    { id: "rps", title: "Req/s", numeric: true, value: (r) => of(r)?.rps ?? null, text: (r) => number(of(r)?.rps) },
    { id: "tokens", title: "Tokens/s", numeric: true, value: (r) => of(r)?.tokens_per_second ?? null, text: (r) => number(of(r)?.tokens_per_second) },
    { id: "ttft_p50", title: "TTFT p50", hint: TTFT, numeric: true, value: (r) => of(r)?.ttft?.p50 ?? null, text: (r) => time(of(r)?.ttft?.p50) },
    { id: "ttft_p99", title: "TTFT p99", hint: TTFT, numeric: true, value: (r) => of(r)?.ttft?.p99 ?? null, text: (r) => time(of(r)?.ttft?.p99) },
    { id: "itl_p99", title: "ITL p99", hint: "Inter-token latency", numeric: true, value: (r) => of(r)?.itl?.p99 ?? null, text: (r) => time(of(r)?.itl?.p99) },
    { id: "e2e_p99", title: "Duration p99", numeric: true, wide: true, value: (r) => of(r)?.e2e?.p99 ?? null, text: (r) => time(of(r)?.e2e?.p99) },
    {
      id: "errors",
      title: "Errors",
      hint: "Requests that failed, of those that were seen whole",
      numeric: true,
      value: (r) => of(r)?.error_ratio ?? null,
      text: (r) => percent(of(r)?.error_ratio),
      level: (r) => ((of(r)?.error_ratio ?? 0) >= 0.05 ? "bad" : (of(r)?.errors ?? 0) > 0 ? "warn" : ""),
    },
    { id: "aborts", title: "Aborts", hint: "Requests whose client left before the end", numeric: true, value: (r) => of(r)?.aborts ?? null, text: (r) => number(of(r)?.aborts) },
    { id: "requests", title: "Requests", numeric: true, wide: true, value: (r) => of(r)?.requests ?? null, text: (r) => number(of(r)?.requests) },
  ];
  return new Table(need("#servers"), {
    caption: "Servers and models",
    columns,
    key: keyOf,
    empty: "No LLM request has been seen in the last ten minutes.",
    sort: { by: "server", down: false },
    sortable: true,
    onChoose,
  });
}

export function streams(): Table<Stream> {
  const columns: Column<Stream>[] = [
    { id: "server", title: "Server", value: (r) => r.server, text: (r) => name(r.server) },
    { id: "model", title: "Model", value: (r) => r.model, text: (r) => name(r.model) },
    { id: "stall", title: "Since last token", numeric: true, value: (r) => r.stall, text: (r) => time(r.stall), level: stalled },
    { id: "age", title: "Age", numeric: true, value: (r) => r.age, text: (r) => time(r.age) },
    { id: "ttft", title: "TTFT", hint: TTFT, numeric: true, value: (r) => r.ttft, text: (r) => (r.ttft === null ? "waiting" : time(r.ttft)) },
    { id: "tokens", title: "Tokens", numeric: true, value: (r) => r.tokens, text: (r) => number(r.tokens) },
    { id: "rate", title: "Tokens/s", numeric: true, value: (r) => r.tokens_per_second, text: (r) => number(r.tokens_per_second) },
    { id: "client", title: "Client", wide: true, value: (r) => r.client, text: (r) => name(r.client) },
    { id: "endpoint", title: "Endpoint", wide: true, value: (r) => r.endpoint, text: (r) => r.endpoint },
  ];
  return new Table(need("#streams"), {
    caption: "Running requests, those that stall first",
    columns,
    key: (r) => `${keyOf(r)}\n${r.client}\n${r.start_ns}`,
    empty: "Nothing is running.",
    sortable: false,
  });
}

const WHY: Record<Ended["why"], string> = {
  failed: "failed",
  client_left: "client left",
  incomplete: "not seen whole",
  slow_first_token: "slow first token",
  stalled: "stalled",
};

export function ended(): Table<Ended> {
  const columns: Column<Ended>[] = [
    { id: "at", title: "At", value: (r) => r.at, text: (r) => clock(r.at) },
    { id: "why", title: "Why", value: (r) => r.why, text: (r) => WHY[r.why], level: (r) => (r.why === "failed" ? "bad" : "warn") },
    { id: "server", title: "Server", value: (r) => r.server, text: (r) => name(r.server) },
    { id: "model", title: "Model", value: (r) => r.model, text: (r) => name(r.model) },
    { id: "ttft", title: "TTFT", hint: TTFT, numeric: true, value: (r) => r.ttft_ns, text: (r) => time(seconds(r.ttft_ns)) },
    { id: "stall", title: "Longest gap", numeric: true, wide: true, value: (r) => r.max_stall_ns, text: (r) => time(seconds(r.max_stall_ns)) },
    { id: "duration", title: "Duration", numeric: true, value: (r) => r.end_ns - r.start_ns, text: (r) => time(seconds(r.end_ns - r.start_ns)) },
    { id: "tokens", title: "Tokens", numeric: true, value: (r) => r.output_tokens, text: (r) => number(r.output_tokens) },
    { id: "status", title: "Status", numeric: true, value: (r) => r.status, text: (r) => String(r.status ?? NONE) },
    { id: "outcome", title: "Outcome", wide: true, value: (r) => r.outcome, text: (r) => r.outcome.replaceAll("_", " ") },
    { id: "client", title: "Client", wide: true, value: (r) => r.client, text: (r) => name(r.client) },
  ];
  return new Table(need("#ended"), {
    caption: "The last requests that went wrong or were slow",
    columns,
    key: (r) => `${r.start_ns}\n${r.client}\n${r.end_ns}`,
    empty: "Nothing went wrong.",
    sortable: false,
  });
}

const seconds = (ns: number | null): number | null => (ns === null ? null : ns / 1e9);
