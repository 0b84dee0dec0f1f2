// Tables whose rows stay the same elements while their numbers change.

import { make, setText } from "./dom";

export interface Column<T> {
  id: string;
  title: string;
  /** What is sorted by; null comes last. */
  value: (row: T) => number | string | null;
  text: (row: T) => string;
  numeric?: boolean;
  level?: (row: T) => "" | "warn" | "bad";
  /** What the title is short for. */
  hint?: string;
  /** Left out on narrow screens. */
  wide?: boolean;
}

interface Options<T> {
  caption: string;
  columns: Column<T>[];
  key: (row: T) => string;
  empty: string;
  /** Column and whether the largest comes first; none leaves the order of the rows. */
  sort?: { by: string; down: boolean };
  sortable: boolean;
  onChoose?: (row: T) => void;
}

export class Table<T> {
  #options: Options<T>;
  #body = make("tbody");
  #empty: HTMLElement;
  #scroll = make("div", "scroll");
  #rows = new Map<string, { tr: HTMLTableRowElement; cells: HTMLElement[]; row: T }>();
  #sort: { by: string; down: boolean } | undefined;
  #last: T[] = [];
  #chosen: string | null = null;

  constructor(parent: HTMLElement, options: Options<T>) {
    this.#options = options;
    this.#sort = options.sort;
    const table = make("table");
    const caption = make("caption", "", options.caption);
    const head = make("tr");
    const ths = options.columns.map((column) => {
      const th = make("th", this.#class(column));
      th.scope = "col";
      if (column.hint) th.title = column.hint;
      if (options.sortable) {
        const button = make("button", "", column.title);
        button.type = "button";
        button.addEventListener("click", () => {
          const same = this.#sort?.by === column.id;
          this.#sort = { by: column.id, down: same ? !this.#sort?.down : column.numeric === true };
          mark();
          this.show(this.#last);
        });
        th.append(button);
      } else {
        th.textContent = column.title;
      }
      return th;
    });
    const mark = (): void => {
      options.columns.forEach((column, i) => {
        const by = this.#sort?.by === column.id;
        if (options.sortable) ths[i]?.setAttribute("aria-sort", by ? (this.#sort?.down ? "descending" : "ascending") : "none");
      });
    };
    mark();
    head.append(...ths);
    const thead = make("thead");
    thead.append(head);
    table.append(caption, thead, this.#body);
    this.#empty = make("p", "empty", options.empty);
    this.#scroll.append(table);
    this.#scroll.tabIndex = 0;
    this.#scroll.setAttribute("role", "region");
    this.#scroll.setAttribute("aria-label", options.caption);
    parent.append(this.#scroll, this.#empty);
  }

  #class(column: Column<T>): string {
    return [column.numeric ? "num" : "", column.wide ? "wide" : ""].join(" ").trim();
  }

  choose(key: string | null): void {
    this.#chosen = key;
    this.show(this.#last);
  }

  show(rows: T[]): void {
    this.#last = rows;
    const { columns, key, onChoose } = this.#options;
    const by = columns.find((c) => c.id === this.#sort?.by);
    const sorted = by ? [...rows].sort((a, b) => compare(by.value(a), by.value(b), this.#sort?.down === true)) : rows;
    const seen = new Set<string>();
    sorted.forEach((row, at) => {
      const id = key(row);
      if (seen.has(id)) return;
      seen.add(id);
      let entry = this.#rows.get(id);
      if (!entry) {
        const tr = make("tr");
        const made = { tr, cells: [] as HTMLElement[], row };
        made.cells = columns.map((column, i) => {
          const td = make("td", this.#class(column));
          tr.append(td);
          if (i > 0 || !onChoose) return td;
          const button = make("button", "choose");
          button.type = "button";
          button.addEventListener("click", () => onChoose(made.row));
          td.append(button);
          return button;
        });
        if (onChoose) {
          tr.classList.add("choosable");
          tr.addEventListener("click", (event) => {
            if (!(event.target instanceof HTMLButtonElement)) onChoose(made.row);
          });
        }
        this.#rows.set(id, made);
        entry = made;
      }
      entry.row = row;
      entry.cells.forEach((cell, i) => {
        const column = columns[i];
        if (!column) return;
        const text = column.text(row);
        setText(cell, text);
        if (!column.numeric) cell.title = text;
        cell.dataset["level"] = column.level?.(row) ?? "";
      });
      if (onChoose) {
        entry.tr.classList.toggle("chosen", id === this.#chosen);
        entry.cells[0]?.setAttribute("aria-pressed", String(id === this.#chosen));
      }
      const there = this.#body.children[at];
      if (there !== entry.tr) this.#body.insertBefore(entry.tr, there ?? null);
    });
    for (const [id, { tr }] of this.#rows) {
      if (!seen.has(id)) {
        tr.remove();
        this.#rows.delete(id);
      }
    }
    this.#empty.hidden = seen.size > 0;
    this.#scroll.hidden = seen.size === 0;
  }
}

function compare(a: number | string | null, b: number | string | null, down: boolean): number {
  if (a === b) return 0;
  if (a === null) return 1;
  if (b === null) return -1;
  const order = a < b ? -1 : 1;
  return down ? -order : order;
}
