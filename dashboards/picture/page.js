// Draws the panels of a Grafana dashboard from a Prometheus, well enough for a picture in the README. It is
// not Grafana: it knows the kinds of panel and the options that our dashboards use.

const { board, prometheus, start, end, variables, rows, caption, width } = window.RUN;
const CELL = 30, GAP = 8;
const TEXT = "#ccccdc", DIM = "#8e8e9a", LINE = "rgba(204,204,220,0.09)";
const PALETTE = ["#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#96d98d", "#ffb357", "#ca95e5"];
const NAMED = {
  green: "#73bf69", yellow: "#fade2a", orange: "#ff9830", red: "#f2495c", "dark-red": "#c4162a",
  purple: "#b877d9", blue: "#5794f2", text: "#ccccdc", transparent: "transparent",
};

async function ask(path, args) {
  const answer = await fetch(`${prometheus}/api/v1/${path}?${new URLSearchParams(args)}`);
  const body = await answer.json();
  if (body.status !== "success") throw new Error(`${body.error}: ${args.query}`);
  return body.data.result;
}

function filled(expr) {
  for (const [name, value] of Object.entries(variables)) expr = expr.replaceAll(`$${name}`, value);
  return expr;
}

const number = (v) => (v >= 100 ? v.toFixed(0) : v >= 10 ? v.toFixed(1) : v >= 1 ? v.toFixed(2) : v.toPrecision(2));

function scaled(v, decimals, steps) {
  if (v === 0) return ["0", ""];
  const [factor, name] = steps.find(([f]) => Math.abs(v) >= f) ?? steps.at(-1);
  const short = v / factor;
  return [decimals === undefined ? String(+number(short)) : short.toFixed(decimals), name];
}

function shown(v, unit, decimals) {
  switch (unit) {
    case "s": return scaled(v, decimals, [[60, "min"], [1, "s"], [1e-3, "ms"], [1e-6, "µs"], [1e-9, "ns"]]);
    case "percentunit": return [decimals === undefined ? String(+(v * 100).toPrecision(3)) : (v * 100).toFixed(decimals), "%"];
    case "bytes": return scaled(v, decimals, [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"], [1, "B"]]);
    case "Bps": return scaled(v, decimals, [[1e6, "MB/s"], [1e3, "kB/s"], [1, "B/s"]]);
    default: {
      const name = { reqps: "req/s", recps: "rec/s", ops: "ops/s" }[unit] ?? (unit === "short" ? "" : unit);
      const [text, scale] = scaled(v, decimals, [[1e6, "M"], [1e3, "K"], [1e-9, ""]].map(([f, n]) => [f === 1e-9 ? 1 : f, n]));
      return [text + scale, name];
    }
  }
}
const label = (v, unit, decimals) => shown(v, unit, decimals).join(unit === "percentunit" ? "" : " ").trim();

function add(parent, tag, name, text) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

function canvas(parent, w, h) {
  const element = add(parent, "canvas");
  const ratio = devicePixelRatio || 1;
  [element.width, element.height] = [w * ratio, h * ratio];
  Object.assign(element.style, { width: `${w}px`, height: `${h}px` });
  const ink = element.getContext("2d");
  ink.scale(ratio, ratio);
  ink.font = "11px DejaVu Sans, sans-serif";
  return ink;
}

const legend = (target, metric) =>
  target.legendFormat.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, name) => metric[name] ?? "").trim() || "(none)";

function colour(panel, name, n) {
  for (const { matcher, properties } of panel.fieldConfig.overrides ?? []) {
    const fixed = properties.find((p) => p.id === "color");
    if (matcher.options === name && fixed) return NAMED[fixed.value.fixedColor];
  }
  return PALETTE[n % PALETTE.length];
}

const property = (panel, name, id) =>
  (panel.fieldConfig.overrides ?? []).filter((o) => o.matcher.options === name)
    .flatMap((o) => o.properties).find((p) => p.id === id)?.value;

const at = (steps, v) => NAMED[steps.filter((s) => s.value === null || v >= s.value).at(-1).color];

/** Times, and for each series its name and a value for each time. */
async function series(panel, step) {
  const count = Math.round((end - start) / step) + 1;
  const times = Array.from({ length: count }, (_, n) => start + n * step);
  const all = [];
  for (const target of panel.targets) {
    const result = await ask("query_range", { query: filled(target.expr), start, end, step });
    for (const { metric, values } of result) {
      const line = new Array(count).fill(null);
      for (const [time, value] of values) {
        const v = Number(value);
        if (Number.isFinite(v)) line[Math.round((time - start) / step)] = v;
      }
      if (line.some((v) => v !== null)) all.push({ name: legend(target, metric), metric, line });
    }
  }
  return { times, all };
}

const none = (panel, box) => add(box, "div", "none", panel.fieldConfig.defaults.noValue ?? "no data");

async function timeseries(panel, box, w, h) {
  const { times, all } = await series(panel, (end - start) / (w / 2.2));
  if (all.length === 0) return none(panel, box);
  const defaults = panel.fieldConfig.defaults, custom = defaults.custom ?? {};
  const stacked = custom.stacking?.mode === "normal";
  const sorted = all.map((s, n) => ({ ...s, color: colour(panel, s.name, n) }));
  let drawn = sorted;
  if (stacked) {
    const sums = times.map(() => 0);
    drawn = sorted.map((s) => ({ ...s, line: s.line.map((v, n) => (sums[n] += v ?? 0)) })).reverse();
  }
  const right = (name) => property(panel, name, "custom.axisPlacement") === "right";
  const steps = custom.thresholdsStyle && custom.thresholdsStyle.mode !== "off" ? defaults.thresholds.steps : [];
  const axis = (scale, side, unit, decimals) => ({
    scale, side, stroke: DIM, size: 58, font: "11px DejaVu Sans", space: 28,
    grid: { show: side === 3, stroke: LINE, width: 1 }, ticks: { show: false },
    values: (_, ticks) => ticks.map((v) => label(v, unit, decimals)),
  });
  const most = Math.max(...drawn.filter((s) => !right(s.name)).flatMap((s) => s.line), custom.axisSoftMax ?? 0);
  const options = {
    width: w, height: h - 62, legend: { show: false }, cursor: { show: false }, padding: [8, 28, 0, 0],
    scales: {
      x: { time: true },
      y: { range: [0, defaults.max ?? (most * 1.08 || 1)] },
      r: { range: (_, lo, hi) => [0, hi * 1.1 || 1] },
    },
    axes: [
      { stroke: DIM, grid: { stroke: LINE, width: 1 }, ticks: { show: false }, font: "11px DejaVu Sans", size: 24, space: 70,
        values: (_, ticks) => ticks.map((t) => new Date(t * 1000).toISOString().slice(11, 16 + 3 * (end - start < 600))) },
      axis("y", 3, defaults.unit),
      ...(drawn.some((s) => right(s.name)) ? [axis("r", 1, "short")] : []),
    ],
    series: [{}, ...drawn.map((s) => ({
      label: s.name, stroke: s.color, width: stacked ? 0.5 : right(s.name) ? 0 : 1.4, spanGaps: !stacked, points: { show: false },
      scale: right(s.name) ? "r" : "y",
      fill: stacked ? blend(s.color, 0.55) : right(s.name) ? "rgba(204,204,220,0.14)" : custom.fillOpacity > 0 ? fade(s.color, 0.09) : undefined,
    }))],
    hooks: {
      draw: [(plot) => {
        for (const step of steps) {
          if (step.value === null || step.value > plot.scales.y.max) continue;
          const y = plot.valToPos(step.value, "y", true);
          plot.ctx.save();
          plot.ctx.setLineDash([6, 5]);
          plot.ctx.strokeStyle = fade(NAMED[step.color], 0.8);
          plot.ctx.beginPath();
          plot.ctx.moveTo(plot.bbox.left, y);
          plot.ctx.lineTo(plot.bbox.left + plot.bbox.width, y);
          plot.ctx.stroke();
          plot.ctx.restore();
        }
      }],
    },
  };
  new uPlot(options, [times, ...drawn.map((s) => s.line)], box);
  const names = add(box, "div", "legend");
  for (const s of sorted) {
    const entry = add(names, "span");
    add(entry, "i").style.background = s.color;
    entry.append(s.name);
  }
}

const channels = (hex) => [1, 3, 5].map((n) => parseInt(hex.slice(n, n + 2), 16));
const fade = (hex, alpha) => `rgba(${channels(hex).join(",")},${alpha})`;
/** Over the panel's own colour, so that what lies below does not shine through. */
const blend = (hex, alpha) =>
  `rgb(${channels(hex).map((c, n) => Math.round(c * alpha + [0x18, 0x1b, 0x1f][n] * (1 - alpha))).join(",")})`;

async function stat(panel, box, w, h) {
  box.classList.add("stat");
  const { all } = await series(panel, (end - start) / 60);
  const line = all[0]?.line ?? [];
  const last = line.filter((v) => v !== null).at(-1);
  if (last === undefined) return none(panel, box);
  const { unit, decimals, thresholds } = panel.fieldConfig.defaults;
  const color = at(thresholds.steps, last);
  const [text, name] = shown(last, unit, decimals);
  const big = add(box, "b", "", text);
  big.style.color = color;
  add(big, "small", "", name);
  const high = 46, ink = canvas(box, w, high), max = Math.max(...line, 1e-12) * 1.1;
  const points = line.map((v, n) => [(n / (line.length - 1)) * w, high - ((v ?? 0) / max) * (high - 6)]);
  ink.beginPath();
  points.forEach(([x, y]) => ink.lineTo(x, y));
  ink.strokeStyle = color;
  ink.lineWidth = 1.3;
  ink.stroke();
  ink.lineTo(w, high);
  ink.lineTo(0, high);
  ink.fillStyle = fade(color, 0.17);
  ink.fill();
}

async function heatmap(panel, box, w, h) {
  const columns = 75;
  const { times, all } = await series(panel, (end - start) / columns);
  if (all.length === 0) return none(panel, box);
  const bounds = all.map((s) => ({ le: s.metric.le === "+Inf" ? Infinity : Number(s.metric.le), line: s.line }))
    .sort((a, b) => a.le - b.le);
  const cells = bounds.map(({ le, line }, n) => ({ le, line: line.map((v, t) => Math.max(0, (v ?? 0) - (n ? bounds[n - 1].line[t] ?? 0 : 0))) }));
  const used = cells.map((c) => c.line.some((v) => v > 0));
  const low = used.indexOf(true), high = used.lastIndexOf(true);
  const shownRows = cells.slice(low, high + 1);
  const most = Math.max(...shownRows.flatMap((c) => c.line));
  const left = 58, bottom = 24, top = 6, ink = canvas(box, w, h - 32);
  const wide = (w - left - 10) / times.length, tall = (h - 32 - bottom - top) / shownRows.length;
  shownRows.forEach(({ le, line }, n) => {
    const y = h - 32 - bottom - (n + 1) * tall;
    line.forEach((v, t) => {
      if (v <= 0) return;
      const heat = Math.sqrt(v / most);
      ink.fillStyle = `rgb(${70 + 185 * heat},${35 + 160 * heat ** 1.4},${20 + 90 * heat ** 3})`;
      ink.fillRect(left + t * wide, y, wide - 0.6, tall - 1);
    });
    ink.fillStyle = DIM;
    ink.textAlign = "right";
    if (n % Math.ceil(13 / tall) === 0) ink.fillText(le === Infinity ? "Inf" : label(le, panel.options.yAxis.unit), left - 5, y + 5);
  });
  ink.textAlign = "center";
  for (let n = 0.5; n < 4; n++) {
    const time = new Date((start + ((end - start) * n) / 4) * 1000).toISOString();
    ink.fillText(time.slice(11, 16 + 3 * (end - start < 600)), left + ((w - left - 10) * n) / 4, h - 32 - 8);
  }
}

/** The next number of which a quarter is a good place for a line. */
function round(v) {
  const unit = 10 ** Math.floor(Math.log10(v));
  return unit * [1.2, 1.6, 2, 3.2, 4, 6, 8, 10, 12].find((n) => n * unit >= v);
}

async function xychart(panel, box, w, h) {
  const { all } = await series(panel, 2);
  if (all.length < 2) return none(panel, box);
  const [x, y] = all.map((s) => s.line);
  const points = x.map((v, n) => [v, y[n]]).filter(([a, b]) => a !== null && b !== null);
  const left = 58, bottom = 24, ink = canvas(box, w, h - 32), high = h - 32 - bottom - 8, broad = w - left - 14;
  const [maxX, maxY] = [0, 1].map((n) => round(Math.max(...points.map((p) => p[n]))));
  ink.fillStyle = DIM;
  ink.strokeStyle = LINE;
  for (let n = 0; n <= 4; n++) {
    const gy = 8 + high - (high * n) / 4, gx = left + (broad * n) / 4;
    ink.strokeRect(left, gy, broad, 0);
    ink.textAlign = "right";
    ink.fillText(label((maxY * n) / 4, panel.fieldConfig.defaults.unit), left - 6, gy + 4);
    ink.textAlign = "center";
    ink.fillText(((maxX * n) / 4).toFixed(0), gx, h - 32 - 8);
  }
  ink.fillStyle = fade(PALETTE[0], 0.75);
  for (const [a, b] of points) {
    ink.beginPath();
    ink.arc(left + (a / maxX) * broad, 8 + high - (b / maxY) * high, 2.3, 0, 7);
    ink.fill();
  }
}

async function table(panel, box) {
  const { indexByName, renameByName } = panel.transformations.find((t) => t.id === "organize").options;
  const keys = Object.keys(indexByName).filter((name) => !name.startsWith("Value #"));
  const found = new Map();
  const columns = panel.targets.map((target) => renameByName[`Value #${target.refId}`]);
  for (const [n, target] of panel.targets.entries()) {
    for (const { metric, value } of await ask("query", { query: filled(target.expr), time: end })) {
      const id = keys.map((key) => metric[key] ?? "").join("\n");
      if (!found.has(id)) found.set(id, []);
      if (Number.isFinite(Number(value[1]))) found.get(id)[n] = Number(value[1]);
    }
  }
  if (found.size === 0) return none(panel, box);
  const grid = add(box, "table"), head = add(grid, "tr");
  for (const name of [...keys, ...columns]) add(head, "th", "", name);
  for (const [id, values] of [...found].sort()) {
    const line = add(grid, "tr");
    for (const key of id.split("\n")) add(line, "td", "", key);
    columns.forEach((name, n) => {
      const v = values[n], unit = property(panel, name, "unit");
      const cell = add(line, "td", "", v === undefined ? "" : label(v, unit, property(panel, name, "decimals")));
      const limits = property(panel, name, "thresholds");
      if (limits && v !== undefined) {
        const color = at(limits.steps, v);
        if (color !== "transparent") Object.assign(cell.style, { background: color, color: "#111217" });
      }
    });
  }
}

async function state(panel, box) {
  none(panel, box);
}

const DRAW = { stat, timeseries, heatmap, xychart, table, "state-timeline": state };

async function draw() {
  const root = document.getElementById("board");
  const column = (width + GAP) / 24;
  let offset = 0, wanted = false, top = 0, last = 0;
  for (const panel of board.panels) {
    const { x, y, w, h } = panel.gridPos;
    if (panel.type === "row") {
      wanted = rows.includes(panel.title);
      // What is left out does not leave a hole.
      offset = y - last;
      if (!wanted) continue;
    } else if (!wanted) continue;
    last = y - offset + h;
    top = Math.max(top, last);
    const box = add(root, "div", panel.type === "row" ? "row" : "panel", panel.type === "row" ? panel.title : undefined);
    const size = [w * column - GAP, h * (CELL + GAP) - GAP];
    Object.assign(box.style, {
      left: `${x * column + GAP}px`, top: `${(y - offset) * (CELL + GAP) + GAP / 2}px`, width: `${size[0]}px`, height: `${size[1]}px`,
    });
    if (panel.type === "row") continue;
    add(box, "h2", "", panel.title);
    await DRAW[panel.type](panel, box, size[0] - 2, size[1] - 2);
  }
  const foot = add(root, "footer", "", caption);
  Object.assign(foot.style, { left: "10px", top: `${top * (CELL + GAP) + 8}px` });
  document.title = `done ${top * (CELL + GAP) + 32}`;
}

draw().catch((error) => { document.title = `failed ${error.message}`; document.body.append(String(error.stack)); });
