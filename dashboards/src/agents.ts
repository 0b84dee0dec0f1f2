// "llmtrace agents": whether the numbers of the other dashboard can be trusted, what they cost, and
// what the traced processes themselves use.

import type { Dashboard } from "@grafana/grafana-foundation-sdk/dashboard";

import {
  NEUTRAL, colours, grid, limits, lines, number, range, section, several, stack, start,
} from "./panels";
import { sum } from "./promql";

const BY = 'instance=~"$instance"';
const OWN = 'job=~"$job", instance=~"$instance"';
/** Not records that are gone: long calls cut by --max-copy-kib, and entry times. */
const REAL = 'reason!~"limit|stash"';
const rate = (by: string, metric: string, more = BY): string => sum(by, `${metric}{${more}}`);
/** With what each agent is: its version and its kernel hook. */
const known = (expr: string): string =>
  `${expr} * on (instance) group_left (version) llmtrace_build_info * on (instance) group_left (backend) llmtrace_backend_info`;

const health = [
  number(
    {
      title: "Agents up", unit: "short", width: 4, decimals: 0,
      description: "Agents that Prometheus reaches.",
    },
    range(`sum(up{${OWN}})`, "up"),
    NEUTRAL,
  ),
  number(
    {
      title: "Agents down", unit: "short", width: 4, decimals: 0,
      description: "Agents that Prometheus knows and does not reach.",
    },
    range(`count(up{${OWN}} == 0) or vector(0)`, "down"),
    [[0, "green"], [1, "red"]],
  ),
  number(
    {
      title: "Targets", unit: "short", width: 4, decimals: 0,
      description: "Processes that are traced.",
    },
    range(`sum(llmtrace_targets{${BY}})`, "targets"),
    [[0, "orange"], [1, "blue"]],
  ),
  number(
    {
      title: "Records", unit: "recps", width: 4,
      description: "Records that the kernel programs hand over per second.",
    },
    range(rate("", "llmtrace_records_total", `${BY}, layer="ring"`), "records"),
    NEUTRAL,
  ),
  number(
    {
      title: "Lost records", unit: "recps", width: 4,
      description: "Records lost between kernel and parser. Zero is normal; anything else makes requests incomplete.",
    },
    range(`${rate("", "llmtrace_lost_records_total", `${BY}, ${REAL}`)} or vector(0)`, "lost"),
    [[0, "green"], [0.001, "red"]],
  ),
  number(
    {
      title: "CPU of the agents", unit: "short", width: 4, decimals: 3,
      description: "Cores, all agents together. What the kernel programs cost is in the traced processes' system time.",
    },
    range(rate("", "process_cpu_seconds_total", OWN), "cores"),
    NEUTRAL,
  ),
  grid(
    {
      title: "Agents", width: 24, height: 7,
      description: "One row for each agent: version, kernel hook, what it traces, what it costs.",
    },
    ["instance", "version", "backend"],
    [
      {
        name: "Targets", unit: "short",
        expr: known(`llmtrace_targets{${BY}}`),
      },
      {
        name: "Connections", unit: "short",
        expr: known(`llmtrace_connections{${BY}}`),
      },
      {
        name: "CPU", unit: "percentunit", decimals: 1, bad: [0.5, 1],
        expr: known(`rate(process_cpu_seconds_total{${OWN}}[5m])`),
      },
      {
        name: "Memory", unit: "bytes", bad: [100e6, 200e6],
        expr: known(`process_resident_memory_bytes{${OWN}}`),
      },
    ],
  ),
];

const loss = [
  stack(
    {
      title: "Lost records", unit: "recps", width: 8, noValue: "nothing lost",
      description: "By the layer that lost them and why. `kernel ring_full`: the agent was not scheduled in time, or the ring is too small for the load.",
    },
    [range(rate("layer, reason", "llmtrace_lost_records_total", `${BY}, ${REAL}`), "{{layer}} {{reason}}")],
  ),
  stack(
    {
      title: "Bytes that were not seen", unit: "Bps", width: 8, noValue: "nothing lost",
      description: "Traffic of targets that went past: gaps of known size. Parts of large bodies that are left out on purpose (--max-copy-kib) are among them.",
    },
    [range(rate("layer, reason", "llmtrace_lost_bytes_total"), "{{layer}} {{reason}}")],
  ),
  stack(
    {
      title: "Requests not seen whole", unit: "reqps", width: 8, noValue: "none",
      description: "Exchanges that are counted as incomplete and kept out of every histogram, by what was missing.",
    },
    [range(rate("reason", "llmtrace_incomplete_exchanges_total"), "{{reason}}")],
  ),
  stack(
    {
      title: "Parser resynchronisations", unit: "ops", width: 8, noValue: "none",
      description: "A direction of a connection could not be followed until its next message: traffic that is not HTTP, or a bug worth a recording (`llmtrace record`).",
    },
    [range(rate("reason", "llmtrace_parse_resyncs_total"), "{{reason}}")],
  ),
  lines(
    {
      title: "Encrypted traffic that is not seen", unit: "short", width: 8, noValue: "none",
      description: "Files with a TLS library whose functions are not probed, by why. The log names them.",
    },
    [range(`sum by (instance, library, state) (llmtrace_tls_libraries{${BY}, state!="attached"})`, "{{instance}} {{library}} {{state}}")],
  ),
  lines(
    {
      title: "Targets with an io_uring that is not seen", unit: "short", width: 8, noValue: "none",
      description: "Where only tracepoints are allowed, what a process reads by io_uring is not traced.",
    },
    [range(`sum by (instance) (llmtrace_io_uring_targets{${BY}})`, "{{instance}}")],
  ),
];

const cost = [
  limits(
    lines(
      {
        title: "CPU of the agent", unit: "percentunit", width: 8,
        description: "Of one core. A few percent at a thousand events per second and stream; near 100 % it will lose records.",
      },
      [range(rate("instance", "process_cpu_seconds_total", OWN), "{{instance}}")],
    ).axisSoftMax(0.1),
    [[0, "green"], [0.5, "orange"], [1, "red"]],
  ),
  lines(
    {
      title: "Memory of the agent", unit: "bytes", width: 8,
      description: "Resident. Bounded by design at some 40 MB: growth is a bug.",
    },
    [range(`sum by (instance) (process_resident_memory_bytes{${OWN}})`, "{{instance}}")],
  ),
  lines(
    {
      title: "CPU per record", unit: "s", width: 8,
      description: "The agent's CPU time over records that it took from the kernel. It rises when the agent is mostly idle and is then no cost.",
    },
    [range(`${rate("instance", "process_cpu_seconds_total", OWN)} / (${rate("instance", "llmtrace_records_total", `${BY}, layer="ring"`)} > 0)`, "{{instance}}")],
  ),
  colours(
    stack(
      {
        title: "Deliveries", unit: "ops", width: 12, noValue: "no OTLP and no webhook in the configuration",
        description: "Spans and metrics sent by OTLP, and notifications of anomalies, by what became of them.",
      },
      [
        range(rate("signal, result", "llmtrace_otlp_items_total"), "otlp {{signal}} {{result}}"),
        range(rate("result", "llmtrace_notifications_total"), "notifications {{result}}"),
      ],
    ),
    {},
  ),
  lines(
    {
      title: "Age of the configuration", unit: "s", width: 12, noValue: "started without a configuration file",
      description: "Time since a configuration was last read well. An agent whose line does not fall with the others' refused the new one.",
    },
    [range(`time() - max by (instance) (llmtrace_config_last_reload_success_timestamp_seconds{${BY}})`, "{{instance}}")],
  ),
];

const target = (by: string, metric: string): string =>
  `sum by (instance, process, pid${by}) (${metric}{${BY}})`;

const targets = [
  lines(
    {
      title: "CPU", unit: "short", width: 8,
      description: "Cores. A Python front end that stays at exactly one core is what its streams wait for.",
    },
    [range(rate("instance, process, pid", "llmtrace_target_cpu_seconds_total"), "{{process}} {{pid}} {{instance}}")],
  ),
  lines(
    {
      title: "Memory", unit: "bytes", width: 8,
      description: "Resident memory of the traced processes.",
    },
    [range(target("", "llmtrace_target_resident_memory_bytes"), "{{process}} {{pid}} {{instance}}")],
  ),
  lines(
    {
      title: "Open sockets", unit: "short", width: 8,
      description: "Grows without end where connections leak.",
    },
    [range(target("", "llmtrace_target_open_sockets"), "{{process}} {{pid}} {{instance}}")],
  ),
  lines(
    {
      title: "GPU utilisation", unit: "percentunit", width: 12, noValue: "no GPU, or no NVML",
      description: "Share of time in which a kernel of the process ran, as NVML has it: 100 % says busy, not efficient.",
    },
    [range(target(", gpu", "llmtrace_target_gpu_utilization_ratio"), "gpu {{gpu}} {{process}} {{pid}} {{instance}}")],
  ).max(1),
  lines(
    {
      title: "GPU memory", unit: "bytes", width: 12, noValue: "no GPU, or no NVML",
      description: "By process and GPU. Engines take what they are told at the start; growth after that is another process or a leak.",
    },
    [range(target(", gpu", "llmtrace_target_gpu_memory_bytes"), "gpu {{gpu}} {{process}} {{pid}} {{instance}}")],
  ),
];

export function agents(): Dashboard {
  const to = start(
    "llmtrace agents",
    "llmtrace-agents",
    "Health and cost of the llmtrace agents, and what the traced processes use.",
  )
    .withVariable(several("job", "label_values(llmtrace_build_info, job)", "Job"))
    .withVariable(several("instance", 'label_values(llmtrace_build_info{job=~"$job"}, instance)', "Instance"));
  section(to, "Agents", health);
  section(to, "Loss", loss);
  section(to, "Cost and deliveries", cost);
  section(to, "Traced processes", targets);
  return to.build();
}
