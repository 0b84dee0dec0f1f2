// The last ten minutes as lines.

import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

import type { Metric } from "./api";
import { make, need, setText } from "./dom";
import { NONE, clock, number, tick, time } from "./format";
import { SECONDS, type Store } from "./store";

interface Line { metric: Metric; label: string; colour: string; fill?: boolean }
interface Chart {
  title: string;
  lines: Line[];
  text: (n: number | null) => string;
  /** The axis ends no lower than here; of times, which are on a logarithmic axis, none. */
  least?: number;
}

const QUANTILES = (of: "ttft" | "itl" | "e2e"): Line[] => [
  { metric: `${of}_p99`, label: "p99", colour: "--second" },
  { metric: `${of}_p50`, label: "p50", colour: "--first" },
];

const CHARTS: Chart[] = [
  {
    title: "Requests/s",
    lines: [
      { metric: "requests", label: "ended", colour: "--first", fill: true },
      { metric: "errors", label: "errors", colour: "--bad" },
      { metric: "aborts", label: "aborts", colour: "--third" },
    ],
    text: number,
    least: 4,
  },
  {
    title: "Output tokens/s",
    lines: [{ metric: "output_tokens", label: "tokens", colour: "--first", fill: true }],
    text: number,
    least: 10,
  },
  {
    title: "Requests in flight",
    lines: [{ metric: "in_flight", label: "in flight", colour: "--first", fill: true }],
    text: number,
    least: 4,
  },
  { title: "Time to first token", lines: QUANTILES("ttft"), text: time },
  { title: "Inter-token latency", lines: QUANTILES("itl"), text: time },
  { title: "Duration", lines: QUANTILES("e2e"), text: time },
];

const HEIGHT = 150;
/** Least seconds from left to right. */
const LEAST_SPAN = 60;
/** Fewer seconds than these have seconds on their axis. */
const SHORT = 240;

/** A range of a logarithmic axis that is never less than one decade. */
function decades(_: uPlot, min: number | null, max: number | null): [number, number] {
  if (!min || !max) return [0.001, 1];
  const [low, high] = [min / 1.3, max * 1.3];
  const middle = Math.sqrt(low * high);
  return high / low >= 10 ? [low, high] : [middle / Math.sqrt(10), middle * Math.sqrt(10)];
}

/** 1, 2 and 5 of each decade, or 1 alone of many. */
function steps(min: number, max: number): number[] {
  const of = max / min > 200 ? [1] : max / min > 40 ? [1, 3] : [1, 2, 5];
  const all: number[] = [];
  for (let e = Math.floor(Math.log10(min)); e <= Math.log10(max); e++) {
    for (const n of of) {
      const step = Number(`${n}e${e}`);
      if (step >= min && step <= max) all.push(step);
    }
  }
  return all;
}

class Plot {
  readonly box = make("figure", "chart");
  #chart: Chart;
  #plot: uPlot | undefined;
  #holder = make("div", "plot");
  #legend: { line: Line; value: HTMLElement }[];
  #when = make("span", "when");
  #data: (number | null)[][] = [];
  #at: number | null = null;
  #span = SECONDS;

  constructor(chart: Chart) {
    this.#chart = chart;
    const caption = make("figcaption");
    const legend = make("span", "legend");
    this.#legend = chart.lines.map((line) => {
      const item = make("span", "item");
      const swatch = make("i");
      swatch.style.setProperty("--swatch", `var(${line.colour})`);
      const value = make("b", "", NONE);
      item.append(swatch, line.label, " ", value);
      legend.append(item);
      return { line, value };
    });
    legend.append(this.#when);
    caption.append(make("h2", "", chart.title), legend);
    this.#holder.setAttribute("role", "img");
    this.box.append(caption, this.#holder);
    new ResizeObserver(() => {
      const width = this.#holder.clientWidth;
      if (width > 0) this.#plot?.setSize({ width, height: HEIGHT });
    }).observe(this.#holder);
  }

  /** With the colours of now. */
  draw(): void {
    this.#plot?.destroy();
    const style = getComputedStyle(document.documentElement);
    const colour = (name: string): string => style.getPropertyValue(name).trim();
    const font = `11px ${style.getPropertyValue("--font")}`;
    const grid = { stroke: colour("--grid"), width: 1 };
    const { lines, text, least } = this.#chart;
    this.#plot = new uPlot(
      {
        width: Math.max(this.#holder.clientWidth, 200),
        height: HEIGHT,
        padding: [8, 18, 0, 0],
        legend: { show: false },
        cursor: { sync: { key: "page" }, y: false, points: { size: 6 }, drag: { x: false, y: false } },
        scales: {
          x: { range: () => [(this.#data[0]?.at(-1) ?? 0) - this.#span, this.#data[0]?.at(-1) ?? 0] },
          y: least === undefined ? { distr: 3, range: decades } : { range: (_, _min, max) => [0, Math.max(max * 1.1, least)] },
        },
        axes: [
          {
            stroke: colour("--quiet"),
            font,
            grid: { show: false },
            ticks: { show: false },
            size: 24,
            // uPlot's own go from one minute to five: a run of six had one label.
            incrs: [1, 5, 10, 15, 30, 60, 120, 300],
            space: () => (this.#span < SHORT ? 70 : 50),
            values: (_, splits) => splits.map((t) => (this.#span < SHORT ? clock(t) : clock(t).slice(0, 5))),
          },
          {
            stroke: colour("--quiet"),
            font,
            grid,
            ticks: { show: false },
            size: 54,
            space: 34,
            ...(least === undefined
              ? { splits: (_: uPlot, _axis: number, min: number, max: number) => steps(min, max), filter: (_: uPlot, splits: number[]) => splits }
              : {}),
            values: (_, splits) => splits.map((n) => (n === 0 ? "0" : tick(text(n)))),
          },
        ],
        series: [
          {},
          ...lines.map((line): uPlot.Series => ({
            label: line.label,
            stroke: colour(line.colour),
            width: 1.5,
            spanGaps: true,
            points: { show: false },
            ...(line.fill ? { fill: `${colour(line.colour)}22` } : {}),
          })),
        ],
        hooks: {
          setCursor: [
            (plot) => {
              this.#at = plot.cursor.left !== undefined && plot.cursor.left >= 0 ? (plot.cursor.idx ?? null) : null;
              this.#tell();
            },
          ],
        },
      },
      this.#data as uPlot.AlignedData,
      this.#holder,
    );
  }

  show(store: Store, key: string): void {
    const columns = this.#chart.lines.map((line) => store.column(key, line.metric));
    this.#data = [store.times, ...columns];
    // An agent that has just begun has no ten minutes to show.
    this.#span = Math.max(LEAST_SPAN, store.known) - 1;
    if (this.#plot) this.#plot.setData(this.#data as uPlot.AlignedData);
    else this.draw();
    this.#tell();
  }

  /** The values under the cursor, else the last ones. */
  #tell(): void {
    const words: string[] = [];
    this.#legend.forEach(({ line, value }, i) => {
      const column = this.#data[i + 1] ?? [];
      const n = this.#at === null ? lastOf(column) : (column[this.#at] ?? null);
      const text = n === null ? NONE : this.#chart.text(n);
      setText(value, text);
      words.push(`${line.label} ${text}`);
    });
    const at = this.#at === null ? undefined : this.#data[0]?.[this.#at];
    setText(this.#when, at ? clock(at) : "");
    if (this.#at === null) this.#holder.setAttribute("aria-label", `${this.#chart.title}, last ten minutes; now ${words.join(", ")}`);
  }
}

/** The last one there is, if it is not long ago. */
function lastOf(column: (number | null)[]): number | null {
  for (let i = column.length - 1; i >= column.length - 10 && i >= 0; i--) {
    const n = column[i];
    if (n !== null && n !== undefined) return n;
  }
  return null;
}

export class Charts {
  #plots = CHARTS.map((chart) => new Plot(chart));

  constructor() {
    need("#charts").append(...this.#plots.map((plot) => plot.box));
  }

  draw(): void {
    this.#plots.forEach((plot) => plot.draw());
  }

  show(store: Store, key: string): void {
    this.#plots.forEach((plot) => plot.show(store, key));
  }
}
