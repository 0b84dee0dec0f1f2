// The last ten minutes of each series, second by second.

import { type History, METRICS, type Metric, type Points, keyOf } from "./api";

export const SECONDS = 600;

type Columns = Record<Metric, (number | null)[]>;
type Row = [Metric, (number | null)[]];

/** What a second without anything is. */
const nothing = (metric: Metric): number | null => (metric.includes("_p") ? null : 0);

const empty = (): Columns =>
  Object.fromEntries(METRICS.map((m): Row => [m, new Array<number | null>(SECONDS).fill(null)])) as Columns;

export class Store {
  /** The second after the last one. */
  #end = 0;
  #first = Infinity;
  #series = new Map<string, Columns>();

  /** Seconds since the epoch of each column. */
  get times(): number[] {
    return Array.from({ length: SECONDS }, (_, i) => this.#end - SECONDS + i);
  }

  /** How many of the last seconds are known. */
  get known(): number {
    return Math.min(SECONDS, Math.max(0, this.#end - this.#first));
  }

  /** How many seconds have to be asked for to have all of them, if the last were asked for so long ago. */
  missing(since: number): number {
    return this.#end === 0 ? SECONDS : Math.min(SECONDS, Math.ceil(since) + 4);
  }

  clear(): void {
    this.#end = 0;
    this.#first = Infinity;
    this.#series.clear();
  }

  add(history: History): void {
    // Seconds of the agent's clock do not begin with those of the day.
    const start = Math.round(history.start);
    const end = start + history.seconds;
    const shift = this.#end === 0 ? SECONDS : end - this.#end;
    if (this.#end !== 0 && (shift < 0 || start > this.#end)) {
      // Seconds between were not asked for, or it is another agent: everything is, next time.
      this.clear();
      return;
    }
    this.#first = Math.min(this.#first, start);
    for (const columns of this.#series.values()) {
      for (const metric of METRICS) {
        const column = columns[metric];
        for (let n = 0; n < Math.min(shift, SECONDS); n++) {
          column.shift();
          column.push(nothing(metric));
        }
      }
    }
    this.#end = end;
    for (const points of [...history.totals, ...history.series]) this.#put(points, start);
    for (const [key, columns] of this.#series) {
      if (columns.requests.every((n) => !n) && columns.in_flight.every((n) => !n)) this.#series.delete(key);
    }
  }

  #put(points: Points, start: number): void {
    const key = keyOf(points);
    let columns = this.#series.get(key);
    if (!columns) {
      columns = empty();
      // It was idle before.
      for (const metric of METRICS) columns[metric].fill(nothing(metric), SECONDS - this.known);
      this.#series.set(key, columns);
    }
    for (const metric of METRICS) {
      const column = columns[metric];
      points[metric].forEach((value, i) => {
        const at = start + i - (this.#end - SECONDS);
        if (at >= 0 && at < SECONDS) column[at] = value;
      });
    }
  }

  column(key: string, metric: Metric): (number | null)[] {
    return this.#series.get(key)?.[metric] ?? new Array<null>(SECONDS).fill(null);
  }
}
