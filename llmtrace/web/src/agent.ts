// How the agent itself is.

import type { Agent } from "./api";
import { make, need, setText } from "./dom";
import { NONE, bytes, number, percent, time } from "./format";

const LINKS = ["metrics", "api/v1/summary", "healthz", "readyz"];
/** CPU and records are of the last so many seconds. */
const OVER = 10;

export class Health {
  #values = new Map<string, HTMLElement>();
  #before: { now: number; agent: Agent }[] = [];

  constructor() {
    const list = make("dl");
    for (const label of ["Agent", "Up", "Targets", "Connections", "Records", "Lost", "Incomplete", "CPU", "Memory"]) {
      const item = make("div");
      const value = make("dd");
      item.append(make("dt", "", label), value);
      list.append(item);
      this.#values.set(label, value);
    }
    const links = make("nav");
    links.setAttribute("aria-label", "Other pages of the agent");
    for (const path of LINKS) {
      const a = make("a", "", `/${path}`);
      a.href = path;
      links.append(a);
    }
    need("#agent").append(list, links);
  }

  show(agent: Agent, now: number): void {
    this.#before.push({ now, agent });
    while (this.#before.length > 1 && (this.#before[0]?.now ?? now) < now - OVER) this.#before.shift();
    const first = this.#before[0];
    const span = first ? now - first.now : 0;
    const rate = (of: (a: Agent) => number | null): number | null => {
      const [a, b] = [first ? of(first.agent) : null, of(agent)];
      return span > 0.5 && a !== null && b !== null && b >= a ? (b - a) / span : null;
    };
    const put = (label: string, text: string, level = ""): void => {
      const value = this.#values.get(label);
      if (!value) return;
      setText(value, text);
      value.dataset["level"] = level;
    };
    put("Agent", `${agent.version}, ${agent.backend ?? "not capturing"}`);
    put("Up", agent.start_time === null ? NONE : time(now - agent.start_time));
    put("Targets", number(agent.targets));
    put("Connections", number(agent.connections));
    put("Records", `${number(rate((a) => a.records))} /s`);
    const lost = agent.lost_records > 0 ? `${number(agent.lost_records)} (${bytes(agent.lost_bytes)})` : "none";
    put("Lost", lost, agent.lost_records > 0 ? "bad" : "");
    put("Incomplete", number(agent.incomplete), agent.incomplete > 0 ? "warn" : "");
    put("CPU", percent(rate((a) => a.cpu_seconds)));
    put("Memory", bytes(agent.resident_bytes));
  }
}
