// Asks the agent once a second and shows what it says.

import { type Role, type Summary, type Total, keyOf, summary } from "./api";
import { Health } from "./agent";
import { Charts } from "./charts";
import { need, segments, setText } from "./dom";
import { number } from "./format";
import { Store } from "./store";
import "./style.css";
import { ended, servers, streams } from "./tables";
import { theme } from "./theme";
import { Tiles } from "./tiles";

const EVERY = 1000;
/** The agent is given so long to answer, in milliseconds. */
const PATIENCE = 10_000;
const MOST_ENDED = 10;
const MOST_STREAMS = 12;
const WINDOWS = [["1s", "1 s"], ["10s", "10 s"], ["60s", "1 min"], ["600s", "10 min"]] as const;

const store = new Store();
const tiles = new Tiles();
const charts = new Charts();
const health = new Health();
let window_: string = "10s";
let role: Role | null = null;
let roles = "";
let chosen: string | null = null;
let filter = "";
let last: Summary | undefined;
/** When the last answer came, and when it was asked for. */
let answered = 0;
let asked = 0;

const choose = (key: string | null): void => {
  chosen = key;
  serverTable.choose(key);
  show();
};
const serverTable = servers(() => window_, (row) => choose(keyOf(row) === chosen ? null : keyOf(row)));
const streamTable = streams();
const endedTable = ended();

segments(need("#window"), WINDOWS, "10s", (w) => {
  window_ = w;
  show();
});
theme(() => charts.draw());
need<HTMLInputElement>("#filter").addEventListener("input", (event) => {
  filter = (event.target as HTMLInputElement).value.trim().toLowerCase();
  show();
});
need("#focus button").addEventListener("click", () => choose(null));

/** Which end is looked at: a request that is traced at both must not count twice. */
function pickRole(s: Summary): Role {
  const there = s.totals.map((t) => t.role);
  const picked = role !== null && there.includes(role) ? role : (there[0] ?? "server");
  if (roles !== there.join()) {
    roles = there.join();
    const options = [["server", "Servers"], ["client", "Clients"]] as const;
    need("#role").hidden = there.length < 2;
    segments(need("#role"), options.filter(([r]) => there.includes(r)), picked, (r) => {
      role = r;
      choose(null);
    });
  }
  return picked;
}

function show(): void {
  const s = last;
  if (!s) return;
  const end = pickRole(s);
  const all = s.totals.find((t) => t.role === end);
  const focused = s.servers.find((t) => keyOf(t) === chosen);
  if (chosen !== null && !focused) {
    chosen = null;
    serverTable.choose(null);
  }
  const total: Total | undefined = focused ?? all;
  tiles.show(total, window_);
  if (total) charts.show(store, keyOf(total));
  else charts.show(store, `${end}\n\n`);
  need("#focus").hidden = !focused;
  if (focused) setText(need("#focus span"), `Only ${focused.server}${focused.model ? `, ${focused.model}` : ""}.`);

  const matches = (k: { role: Role; server: string; model: string }): boolean =>
    k.role === end && (filter === "" || `${k.server} ${k.model}`.toLowerCase().includes(filter));
  // A series without a name is that of requests whose model is not known yet: soon it is another.
  const named = (t: Total): boolean => t.model !== "" || t.in_flight > 0 || (t.windows[window_]?.requests ?? 0) > 0;
  serverTable.show(s.servers.filter((t) => matches(t) && named(t)));
  const inFocus = (k: Total | Summary["streams"][number] | Summary["ended"][number]): boolean =>
    matches(k) && (!focused || keyOf(k) === chosen);
  const running = s.streams.filter(inFocus);
  streamTable.show(running.slice(0, MOST_STREAMS));
  const left = s.running - Math.min(running.length, MOST_STREAMS);
  const partial = running.length > MOST_STREAMS || s.running > s.streams.length;
  setText(need("#streams .note"), partial ? `${number(left)} more` : "");
  const wrong = s.ended.filter(inFocus);
  endedTable.show(wrong.slice(0, MOST_ENDED));
  setText(need("#ended .note"), wrong.length > MOST_ENDED ? `the last ${MOST_ENDED} of ${wrong.length}` : "");
  health.show(s.agent, s.now);
}

function tellState(error?: unknown): void {
  const state = need("#state");
  const trouble = need("#trouble");
  const late = (Date.now() - answered) / 1000;
  const lost = error !== undefined && late > 2;
  state.dataset["state"] = lost ? "lost" : answered ? "live" : "waiting";
  setText(need("#state .text"), lost ? "no answer" : answered ? "live" : "connecting");
  trouble.hidden = !lost;
  const since = answered ? ` for ${Math.round(late)} s; the numbers are of then` : "";
  if (lost) setText(trouble, `The agent has not answered${since} (${error instanceof Error ? error.message : String(error)}).`);
  document.body.classList.toggle("stale", lost && answered > 0);
}

async function look(): Promise<void> {
  const begin = Date.now();
  try {
    const s = await summary(store.missing((begin - asked) / 1000), AbortSignal.timeout(PATIENCE));
    last = s;
    [asked, answered] = [begin, Date.now()];
    store.add(s.history);
    show();
    tellState();
  } catch (error) {
    tellState(error);
  }
}

async function run(): Promise<void> {
  for (;;) {
    if (!document.hidden) await look();
    await new Promise((resolve) => setTimeout(resolve, EVERY));
  }
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) void look();
});
void run();
