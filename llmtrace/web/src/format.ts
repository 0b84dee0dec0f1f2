// Numbers as people read them.

export const NONE = "–";

/** Three digits, as few as there are. */
export function number(n: number | null | undefined): string {
  if (n === null || n === undefined || !Number.isFinite(n)) return NONE;
  const size = Math.abs(n);
  if (size >= 1e15) return n.toExponential(1);
  for (const [unit, name] of [[1e12, "T"], [1e9, "G"], [1e6, "M"]] as const) {
    if (size >= unit) return digits(n / unit) + name;
  }
  if (size >= 1e4) return `${digits(n / 1e3)}k`;
  if (size >= 100 || Number.isInteger(n)) return Math.round(n).toLocaleString("en-US");
  return digits(n);
}

function digits(n: number): string {
  const size = Math.abs(n);
  return n.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 2);
}

/** A duration in seconds: value and unit. */
export function duration(seconds: number | null | undefined): [string, string] {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return [NONE, ""];
  if (seconds < 1e-3) return [String(Math.round(seconds * 1e6)), "µs"];
  if (seconds < 0.9995) return [short(seconds * 1e3), "ms"];
  if (seconds < 120) return [short(seconds), "s"];
  if (seconds < 7200) return [`${Math.floor(seconds / 60)}:${pad(seconds % 60)}`, "min"];
  if (seconds < 172_800) return [`${Math.floor(seconds / 3600)}:${pad((seconds % 3600) / 60)}`, "h"];
  return [String(Math.floor(seconds / 86_400)), "days"];
}

const short = (n: number): string => (n >= 99.95 ? n.toFixed(0) : n >= 9.995 ? n.toFixed(1) : n.toFixed(2));
const pad = (n: number): string => String(Math.floor(n)).padStart(2, "0");

export const time = (seconds: number | null | undefined): string => duration(seconds).join(" ").trim();

/** As short as it is exact: for axes. */
export const tick = (text: string): string => text.replace(/\.0+(?=\D|$)/, "").replace(/(\.\d*?)0+(?=\D|$)/, "$1");

export function percent(ratio: number | null | undefined): string {
  if (ratio === null || ratio === undefined) return NONE;
  if (ratio === 0) return "0 %";
  const p = ratio * 100;
  return `${p < 0.01 ? "<0.01" : p < 1 ? p.toFixed(2) : p < 10 ? p.toFixed(1) : p.toFixed(0)} %`;
}

export function bytes(n: number | null | undefined): string {
  if (n === null || n === undefined) return NONE;
  for (const [unit, name] of [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]] as const) {
    if (n >= unit) return `${digits(n / unit)} ${name}`;
  }
  return `${n} B`;
}

export const clock = (seconds: number): string =>
  new Date(seconds * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
