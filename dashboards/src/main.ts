// Writes the dashboards, as Grafana provisions them, into the folder that is named.

import { writeFileSync } from "node:fs";
import { join } from "node:path";

import type { Dashboard, Panel } from "@grafana/grafana-foundation-sdk/dashboard";
import type { Dataquery } from "@grafana/grafana-foundation-sdk/prometheus";
import * as units from "@grafana/grafana-foundation-sdk/units";

import { agents } from "./agents";
import { serving } from "./serving";

/** What Grafana would number by itself, but then differently on each load: links go astray. */
function numbered(panel: Panel, id: number): void {
  panel.id = id;
  known(panel);
  (panel.targets as Dataquery[] | undefined)?.forEach((target, n) => {
    target.refId ??= String.fromCharCode("A".charCodeAt(0) + n);
  });
}

/** A unit that Grafana does not know is shown as a word, and numbers are not scaled. */
function known(panel: Panel): void {
  const all = new Set<unknown>(Object.values(units));
  const of = JSON.stringify(panel).matchAll(/"unit":"([^"]*)"|"id":"unit","value":"([^"]*)"/g);
  for (const [, own, override] of of) {
    const unit = own ?? override;
    if (!all.has(unit)) throw new Error(`${panel.title}: Grafana has no unit ${unit}`);
  }
}

function write(folder: string, board: Dashboard): void {
  let next = 1;
  for (const panel of board.panels ?? []) {
    numbered(panel as Panel, next++);
    if ("panels" in panel) for (const child of panel.panels) numbered(child, next++);
  }
  writeFileSync(join(folder, `${board.uid}.json`), `${JSON.stringify(board, null, 2)}\n`);
}

const folder = process.argv[2];
if (folder === undefined) throw new Error("usage: node main.js FOLDER");
write(folder, serving());
write(folder, agents());
