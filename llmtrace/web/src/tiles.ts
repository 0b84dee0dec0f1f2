// The current numbers.

import type { Rates, Total } from "./api";
import { make, need, setText } from "./dom";
import { NONE, duration, number, percent, time } from "./format";

interface Tile {
  id: string;
  label: string;
  /** Value and unit. */
  value: (r: Rates, t: Total) => [string, string];
  /** As the API has it, for those who read the page by program. */
  raw: (r: Rates, t: Total) => number | null;
  more: (r: Rates, t: Total) => string;
  /** Whether it is something to look into. */
  level?: (r: Rates) => "" | "warn" | "bad";
}

const TILES: Tile[] = [
  {
    id: "rps",
    label: "Requests",
    value: (r) => [number(r.rps), "/s"],
    raw: (r) => r.requests,
    more: (r) => `${number(r.requests)} ended`,
  },
  {
    id: "tokens_per_second",
    label: "Output tokens",
    value: (r) => [number(r.tokens_per_second), "/s"],
    raw: (r) => r.output_tokens,
    more: (r) => `${number(r.output_tokens)} in all`,
  },
  {
    id: "in_flight",
    label: "In flight",
    value: (_, t) => [number(t.in_flight), ""],
    raw: (_, t) => t.in_flight,
    more: (r, t) => `${number(t.streaming)} begun, max ${number(r.in_flight_max)}`,
  },
  {
    id: "ttft",
    label: "Time to first token",
    value: (r) => duration(r.ttft?.p50),
    raw: (r) => r.ttft?.p50 ?? null,
    more: (r) => `p99 ${time(r.ttft?.p99)}`,
  },
  {
    id: "itl",
    label: "Inter-token latency",
    value: (r) => duration(r.itl?.p50),
    raw: (r) => r.itl?.p50 ?? null,
    more: (r) => `p99 ${time(r.itl?.p99)}`,
  },
  {
    id: "e2e",
    label: "Duration",
    value: (r) => duration(r.e2e?.p50),
    raw: (r) => r.e2e?.p50 ?? null,
    more: (r) => `p99 ${time(r.e2e?.p99)}`,
  },
  {
    id: "error_ratio",
    label: "Errors",
    value: (r) => {
      const [value = NONE, unit = ""] = percent(r.error_ratio).split(" ");
      return [value, unit];
    },
    raw: (r) => r.errors,
    more: (r) => `${number(r.errors)} of ${number(r.requests)}`,
    level: (r) => ((r.error_ratio ?? 0) >= 0.05 ? "bad" : r.errors > 0 ? "warn" : ""),
  },
  {
    id: "aborts",
    label: "Client aborts",
    value: (r) => [number(r.aborts), ""],
    raw: (r) => r.aborts,
    more: (r) => `${number(r.wasted_tokens)} tokens wasted`,
    level: (r) => (r.aborts > 0.1 * r.requests ? "warn" : ""),
  },
];

export class Tiles {
  #parts = TILES.map((tile) => {
    const box = make("div", "tile");
    const label = make("h2", "", tile.label);
    const value = make("p", "value");
    const main = make("span");
    const unit = make("span", "unit");
    const more = make("p", "more");
    main.dataset["metric"] = tile.id;
    value.append(main, unit);
    box.append(label, value, more);
    return { tile, box, main, unit, more };
  });

  constructor() {
    need("#now").append(...this.#parts.map((p) => p.box));
  }

  show(total: Total | undefined, window: string): void {
    const rates = total?.windows[window];
    for (const { tile, box, main, unit, more } of this.#parts) {
      const [value, of] = total && rates ? tile.value(rates, total) : [NONE, ""];
      setText(main, value);
      setText(unit, of);
      setText(more, total && rates ? tile.more(rates, total) : "");
      box.dataset["level"] = (rates && tile.level?.(rates)) ?? "";
      main.dataset["raw"] = String((total && rates ? tile.raw(rates, total) : null) ?? "");
    }
  }
}
