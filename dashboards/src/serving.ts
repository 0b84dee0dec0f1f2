// "LLM serving": what the users of the servers get. One row after another from "is it well?" to
// "which instance is it?".

import type { Dashboard } from "@grafana/grafana-foundation-sdk/dashboard";
import * as common from "@grafana/grafana-foundation-sdk/common";
import * as statetimeline from "@grafana/grafana-foundation-sdk/statetimeline";
import * as xychart from "@grafana/grafana-foundation-sdk/xychart";

import {
  type About, DATASOURCE, NEUTRAL, type Steps, colours, grid, heat, label, limits, lines, number,
  range, section, several, stack, start,
} from "./panels";
import { RATE, sum } from "./promql";

const BY = 'role="$role", server=~"$server", model=~"$model"';
/** A model is known only from a successful answer, so requests under way have none. */
const NO_MODEL = 'role="$role", server=~"$server"';
/** The fault of the server: what the client did wrong (4xx) is not. Same as in the rules. */
const FAILED = 'outcome=~"http_error|stream_error|server_disconnect|timeout", status!~"4.."';

const requests = (more = "", by = ""): string => sum(by, `llm_requests_total{${and(more)}}`);
const and = (more: string): string => (more ? `${BY}, ${more}` : BY);
const bucket = (metric: string, by = ""): string =>
  sum(by ? `${by}, le` : "le", `${metric}_bucket{${BY}}`);
const quantile = (q: number, metric: string, by = ""): string =>
  `histogram_quantile(${q}, ${bucket(metric, by)})`;
const mean = (metric: string): string => `${sum("", `${metric}_sum{${BY}}`)} / ${sum("", `${metric}_count{${BY}}`)}`;

const TTFT = "llm_time_to_first_token_seconds";
const ITL = "llm_inter_token_latency_seconds";
const TPOT = "llm_time_per_output_token_seconds";
const E2E = "llm_request_duration_seconds";
const STALL = "llm_stream_max_stall_seconds";
const QUEUE = "llm_request_queue_seconds";
const BACKPRESSURE = "llm_client_backpressure_seconds";
const RECEIVE = "llm_request_receive_seconds";

const OUTCOMES = {
  success: "green",
  client_disconnect: "yellow",
  http_error: "orange",
  stream_error: "red",
  server_disconnect: "dark-red",
  timeout: "purple",
  incomplete: "text",
};
const QUANTILES = { mean: "text", p50: "green", p95: "orange", p99: "red" };
const RATIO: Steps = [[0, "green"], [0.01, "orange"], [0.05, "red"]];

function quantiles(about: About, metric: string) {
  return colours(
    lines(about, [
      range(quantile(0.99, metric), "p99"),
      range(quantile(0.95, metric), "p95"),
      range(quantile(0.5, metric), "p50"),
      range(mean(metric), "mean"),
    ]),
    QUANTILES,
  );
}

/** What is next to nothing most of the time, and then is not. */
function tail(about: About, metric: string) {
  return colours(
    lines(about, [range(quantile(0.99, metric), "p99"), range(mean(metric), "mean")]),
    QUANTILES,
  );
}

const health = [
  number(
    {
      title: "Agents up", unit: "percentunit", width: 3, decimals: 0,
      description: "Share of the llmtrace agents that Prometheus reaches. Below 100 % everything here lacks the servers of those nodes.",
    },
    range('avg(up{job=~"$job"})', "up"),
    [[0, "red"], [0.5, "orange"], [1, "green"]],
  ),
  number(
    {
      title: "Requests", unit: "reqps", width: 3,
      description: "Requests that ended per second, however they ended.",
    },
    range(requests(), "requests"),
    NEUTRAL,
  ),
  number(
    {
      title: "Error ratio", unit: "percentunit", width: 3, decimals: 2,
      description: "Share of requests that failed by the server's fault: HTTP 5xx, errors inside a 200, connections the server closed early, timeouts. 4xx and clients that left are not in it.",
    },
    range(`(${requests(FAILED)} or vector(0)) / ${requests('outcome!="incomplete"')}`, "errors"),
    RATIO,
  ),
  number(
    {
      title: "In flight", unit: "short", width: 3, decimals: 0,
      description: "Requests that have begun and are not over, of all models: which model answers is known only from the answer.",
    },
    range(`sum(llm_requests_in_flight{${NO_MODEL}})`, "in flight"),
    NEUTRAL,
  ),
  number(
    {
      title: "TTFT p99", unit: "s", width: 3,
      description: "99th percentile of the time to the first token, taken in the kernel at the write that carries it.",
    },
    range(quantile(0.99, TTFT), "p99"),
    [[0, "green"], [2, "orange"], [10, "red"]],
  ),
  number(
    {
      title: "Output tokens/s", unit: "short", width: 3,
      description: "Counted when their request ends.",
    },
    range(sum("", `llm_tokens_total{${and('type="output"')}}`), "output"),
    NEUTRAL,
  ),
  number(
    {
      title: "Client aborts", unit: "percentunit", width: 3, decimals: 1,
      description: "Share of requests whose client left before the end. Users who give up look like this, and the engine's own metrics do not count them.",
    },
    range(`(${requests('outcome="client_disconnect"')} or vector(0)) / ${requests('outcome!="incomplete"')}`, "aborts"),
    [[0, "green"], [0.05, "orange"], [0.2, "red"]],
  ),
  number(
    {
      title: "Not seen whole", unit: "percentunit", width: 3, decimals: 2,
      description: "Share of requests of which the agent lost bytes. They are in no histogram and no token counter, so above 1 % trust the numbers here less.",
    },
    range(`(${requests('outcome="incomplete"')} or vector(0)) / ${requests()}`, "incomplete"),
    [[0, "green"], [0.001, "orange"], [0.01, "red"]],
  ),
];

const traffic = [
  colours(
    stack(
      {
        title: "Requests by outcome", unit: "reqps", width: 12,
        description: "Requests that ended per second. `stream_error` is an error inside a 200, which HTTP metrics count as success; `client_disconnect` a client that left.",
      },
      [range(requests("", "outcome"), "{{outcome}}")],
    ),
    OUTCOMES,
  ),
  limits(
    lines(
      {
        title: "Error ratio by server", unit: "percentunit", width: 12,
        description: "Server-side failures over all requests of a server (see the stat above). Lines at 1 % and 5 %: the latter pages.",
      },
      [range(`(${requests(FAILED, "server")} or 0 * ${requests("", "server")}) / ${requests('outcome!="incomplete"', "server")}`, "{{server}}")],
    ).axisSoftMax(0.06),
    RATIO,
  ),
  stack(
    {
      title: "Failed and refused, by status", unit: "reqps", width: 8, noValue: "none failed",
      description: "What did not end well, with the HTTP status. 429 and 503: overload; 200 with stream_error: the engine failed in the middle of an answer; no status: the connection ended before a head.",
    },
    [range(requests('outcome=~"http_error|stream_error|server_disconnect|timeout"', "outcome, status"), "{{status}} {{outcome}}")],
  ),
  stack(
    {
      title: "Requests by model", unit: "reqps", width: 8,
      description: "By the model that the answer names. Without a name: failed requests for models that never answered.",
    },
    [range(requests("", "model"), "{{model}}")],
  ),
  stack(
    {
      title: "Requests by endpoint", unit: "reqps", width: 8,
      description: "By normalised route and method.",
    },
    [range(requests("", "method, endpoint"), "{{method}} {{endpoint}}")],
  ),
];

const latency = [
  heat(
    {
      title: "Time to first token", unit: "s", width: 8,
      description: "How many streams had their first token after how long. Two bands usually are two prompt lengths, or hits and misses of the prefix cache.",
    },
    `sum by (le) (increase(${TTFT}_bucket{${BY}}${RATE}))`,
  ),
  heat(
    {
      title: "Inter-token latency", unit: "s", width: 8,
      description: "Gaps between tokens. A second band above the first is decoding that stops for the prefill of others.",
    },
    `sum by (le) (increase(${ITL}_bucket{${BY}}${RATE}))`,
  ),
  heat(
    {
      title: "Request duration", unit: "s", width: 8,
      description: "From the first byte of the request to the last of the answer, streamed or not.",
    },
    `sum by (le) (increase(${E2E}_bucket{${BY}}${RATE}))`,
  ),
  quantiles(
    {
      title: "TTFT", unit: "s", width: 8,
      description: "Time to first token: waiting in the engine's queue and prefill. Server's own TTFT <= this <= what the client sees.",
    },
    TTFT,
  ),
  quantiles(
    {
      title: "Inter-token latency", unit: "s", width: 8,
      description: "Between tokens of one stream, each gap observed: unlike TPOT it is not averaged over a request, so it shows decode stalls.",
    },
    ITL,
  ),
  quantiles(
    {
      title: "Request duration", unit: "s", width: 8,
      description: "End to end. It follows the length of the answers: compare with output tokens per request.",
    },
    E2E,
  ),
  lines(
    {
      title: "TTFT p95 by server and model", unit: "s", width: 12,
      description: "Which server or model is slow to begin.",
    },
    [range(quantile(0.95, TTFT, "server, model"), "{{server}} {{model}}")],
  ),
  lines(
    {
      title: "Time per output token p95 by server and model", unit: "s", width: 12,
      description: "Which server or model is slow to go on: mean pace of a request after its first token.",
    },
    [range(quantile(0.95, TPOT, "server, model"), "{{server}} {{model}}")],
  ),
];

const tokens = [
  lines(
    {
      title: "Tokens per second", unit: "short", width: 8,
      description: "By type, counted when their request ends. Cached ones are part of prompt, reasoning ones of output.",
    },
    [range(sum("type", `llm_tokens_total{${BY}}`), "{{type}}")],
  ),
  lines(
    {
      title: "Tokens per request", unit: "short", width: 8,
      description: "Median and 95th percentile of prompt and output. The buckets are powers of four, so read these as orders of magnitude.",
    },
    ["prompt", "output"].flatMap((type) => [
      range(quantile(0.95, `llm_request_${type}_tokens`), `${type} p95`),
      range(quantile(0.5, `llm_request_${type}_tokens`), `${type} p50`),
    ]),
  ),
  lines(
    {
      title: "Prompt tokens from cache", unit: "percentunit", width: 8,
      noValue: "no server reports cached tokens",
      description: "Share of prompt tokens that the server says it had cached. When it falls, TTFT rises.",
    },
    [range(`${sum("server", `llm_tokens_total{${and('type="cached"')}}`)} / ${sum("server", `llm_tokens_total{${and('type="prompt"')}}`)}`, "{{server}}")],
  ).max(1),
  lines(
    {
      title: "Cost per hour", unit: "short", width: 8, noValue: "no [cost] in the agent's configuration",
      description: "At the pace of now, by model, in the currency of the agent's configuration (llmtrace_cost_info); and what GPUs cost while no request used them.",
    },
    [
      range(`3600 * ${sum("model", `llm_cost_total{${BY}}`)}`, "{{model}}"),
      range(`3600 * ${sum("", 'llm_cost_total{role="", type="gpu"}')}`, "idle GPUs"),
    ],
  ),
  lines(
    {
      title: "Cost per million output tokens", unit: "short", width: 8, noValue: "no [cost] in the agent's configuration",
      description: "All cost over all output tokens. With a price per GPU hour this is what batching does for you: it falls with load.",
    },
    [range(`1e6 * ${sum("model", `llm_cost_total{${BY}}`)} / ${sum("model", `llm_tokens_total{${and('type="output"')}}`)}`, "{{model}}")],
  ),
  lines(
    {
      title: "Cost of a request", unit: "short", width: 8, noValue: "no [cost] in the agent's configuration",
      description: "Median and 95th percentile: a wide gap is a few long contexts that pay for the rest.",
    },
    [
      range(quantile(0.95, "llm_request_cost"), "p95"),
      range(quantile(0.5, "llm_request_cost"), "p50"),
    ],
  ),
];

const waiting = [
  lines(
    {
      title: "Client aborts by server", unit: "percentunit", width: 8,
      description: "Share of requests whose client left before the end.",
    },
    [range(`(${requests('outcome="client_disconnect"', "server")} or 0 * ${requests("", "server")}) / ${requests('outcome!="incomplete"', "server")}`, "{{server}}")],
  ),
  lines(
    {
      title: "Wasted output tokens per second", unit: "short", width: 8,
      description: "Tokens of answers that nobody stayed for. If an engine does not notice that a client is gone, it goes on spending.",
    },
    [range(sum("server", `llm_wasted_tokens_total{${BY}}`), "{{server}}")],
  ),
  quantiles(
    {
      title: "Longest gap of a stream", unit: "s", width: 8,
      description: "Each stream's worst pause between tokens: what a reader feels, and what means hide.",
    },
    STALL,
  ),
  tail(
    {
      title: "Wait before the server reads", unit: "s", width: 8,
      description: "Request bytes lay in the server's socket: its front end (event loop, accept queue) is busy. No server can measure this about itself.",
    },
    QUEUE,
  ),
  lines(
    {
      title: "Streams held back by slow clients", unit: "short", width: 8,
      description: "How many streams wait at a time, on average, because their client, or a proxy, reads slowly: seconds of waiting per second, counted when a stream ends.",
    },
    [range(sum("server", `${BACKPRESSURE}_sum{${BY}}`), "{{server}}")],
  ),
  tail(
    {
      title: "Upload of the request", unit: "s", width: 8,
      description: "From the first to the last byte of the request: large prompts over slow links. It is part of TTFT and not the engine's.",
    },
    RECEIVE,
  ),
];

const inFlight = range(`sum(llm_requests_in_flight{${NO_MODEL}})`, "in flight");

const load = [
  lines(
    {
      title: "Latency and concurrency", unit: "s", width: 8,
      description: "TTFT p95 and inter-token latency p95 (left) over requests in flight (right). Latency that rises while the load does not is the server's.",
    },
    [range(quantile(0.95, TTFT), "TTFT p95"), range(quantile(0.95, ITL), "ITL p95"), inFlight],
  ).overrideByName("in flight", [
      { id: "unit", value: "short" },
      { id: "custom.axisPlacement", value: "right" },
      { id: "custom.fillOpacity", value: 20 },
      { id: "custom.lineWidth", value: 0 },
      { id: "color", value: { mode: "fixed", fixedColor: "text" } },
    ]),
  new xychart.PanelBuilder()
    .title("TTFT against concurrency")
    .description("Each point is a moment: requests in flight, and TTFT p95 then. Where the cloud bends upwards is what the server can take.")
    .datasource(DATASOURCE)
    .unit("s")
    .noValue("no data")
    .span(8)
    .height(8)
    .withTarget(inFlight)
    .withTarget(range(quantile(0.95, TTFT), "TTFT p95"))
    .withTransformation({ id: "joinByField", options: { byField: "Time", mode: "inner" } })
    .mapping(xychart.SeriesMapping.Manual)
    .show(xychart.XYShowMode.Points)
    .pointSize({ fixed: 4 })
    .overrideByName("in flight", [{ id: "unit", value: "short" }])
    .legend(new common.VizLegendOptionsBuilder()
      .displayMode(common.LegendDisplayMode.Hidden)
      .placement(common.LegendPlacement.Bottom)
      .showLegend(false))
    .series([
      new xychart.XYSeriesConfigBuilder()
        .frame({ matcher: { id: "byIndex", options: 0 } })
        .x({ matcher: { id: "byName", options: "in flight" } })
        .y({ matcher: { id: "byName", options: "TTFT p95" } }),
    ]),
  lines(
    {
      title: "Quality of the answers", unit: "percentunit", width: 8,
      description: "From the wire alone: answers cut at the token limit, answers without content, and how much of an answer repeats itself (p95, with --quality). A bad quantisation or chat template shows here before users tell.",
    },
    [
      range(`(${sum("", `llm_finish_total{${and('reason=~"length|max_tokens|max_output_tokens|limit"')}}`)} or vector(0)) / ${sum("", `llm_finish_total{${BY}}`)}`, "cut at the limit"),
      range(`${sum("", `llm_empty_answers_total{${BY}}`)} / ${requests('outcome="success"')}`, "empty"),
      range(quantile(0.95, "llm_output_repetition_ratio"), "repetition p95"),
    ],
  ).max(1),
];

const slo = [
  limits(
    lines(
      {
        title: "Requests that met their targets", unit: "percentunit", width: 8,
        noValue: "no [[slo]] in the agent's configuration",
        description: "By target; `all` is goodput: requests that met every one. The targets are those of [[slo]] (llmtrace_slo_target_seconds).",
      },
      [range(`${sum("slo", `llm_slo_requests_total{${and('met="true"')}}`)} / ${sum("slo", `llm_slo_requests_total{${BY}}`)}`, "{{slo}}")],
    ).max(1),
    [[0, "red"], [0.99, "green"]],
  ),
  limits(
    lines(
      {
        title: "Burn of the error budget, 1 h", unit: "short", width: 8,
        noValue: "no [[slo]] in the agent's configuration",
        description: "1: the budget of 1 % misses lasts exactly its 30 days. The alerts fire at 14.4 (a page) and 3 (a ticket).",
      },
      [range("server_model_slo:llm_slo_missed:ratio_rate1h{role=\"$role\", server=~\"$server\", model=~\"$model\"} / 0.01", "{{slo}} {{server}} {{model}}")],
    ),
    [[0, "green"], [3, "orange"], [14.4, "red"]],
  ),
  colours(
    lines(
      {
        title: "Goodput", unit: "reqps", width: 8,
        noValue: "no [[slo]] in the agent's configuration",
        description: "Requests per second that met all of their targets, against all requests: load beyond the point where they part is load that the servers do not serve well.",
      },
      [
        range(requests(), "all"),
        range(sum("", `llm_slo_requests_total{${and('slo="all", met="true"')}}`), "good"),
      ],
    ),
    { all: "text", good: "green" },
  ),
];

const anomalies = [
  new statetimeline.PanelBuilder()
    .title("Anomalies")
    .description("The agent compares each signal with its own past (sliding window, EWMA, quantiles). Red while it lasts.")
    .datasource(DATASOURCE)
    .unit("short")
    .noValue("no anomaly")
    .span(16)
    .height(8)
    .withTarget(range('max by (server, model, signal, severity) (llmtrace_anomaly{server=~"$server", model=~"$model"})', "{{signal}} {{severity}} {{server}} {{model}}"))
    .mappings([
      {
        type: "value" as never,
        options: { "0": { text: "over", color: "green" }, "1": { text: "anomaly", color: "red" } },
      },
    ])
    .fillOpacity(70)
    .lineWidth(0),
  stack(
    {
      title: "Anomalies that began", unit: "short", width: 8, noValue: "no anomaly",
      description: "By signal and severity; and requests that are not looked at, of servers of which no model has answered or for which there is no room.",
    },
    [
      range("sum by (signal, severity) (increase(llmtrace_anomalies_total[$__rate_interval]))", "{{signal}} {{severity}}"),
      range("sum(increase(llmtrace_anomaly_unwatched_requests_total[$__rate_interval])) > 0", "requests not watched"),
    ],
  ),
];

const INSTANCE = "instance, server, model";
const five = (more: string, metric = "llm_requests_total"): string =>
  `sum by (${INSTANCE}) (rate(${metric}{${and(more)}}[5m]))`;
const p95 = (metric: string): string =>
  `histogram_quantile(0.95, sum by (${INSTANCE}, le) (rate(${metric}_bucket{${BY}}[5m])))`;

const instances = [
  grid(
    {
      title: "Every instance, last five minutes", width: 24, height: 9,
      description: "One row for each server and model on each node, to find the one that differs. Sort by any column.",
    },
    ["instance", "server", "model"],
    [
      { name: "Requests/s", expr: five(""), unit: "reqps", decimals: 2 },
      { name: "Errors", expr: `(${five(FAILED)} or 0 * ${five("")}) / (${five('outcome!="incomplete"')} > 0)`, unit: "percentunit", decimals: 2, bad: [0.01, 0.05] },
      { name: "Aborts", expr: `(${five('outcome="client_disconnect"')} or 0 * ${five("")}) / (${five('outcome!="incomplete"')} > 0)`, unit: "percentunit", decimals: 1, bad: [0.05, 0.2] },
      { name: "TTFT p95", expr: p95(TTFT), unit: "s", bad: [2, 10] },
      { name: "ITL p95", expr: p95(ITL), unit: "s", bad: [0.2, 1] },
      { name: "Duration p95", expr: p95(E2E), unit: "s" },
      { name: "Longest gap p95", expr: p95(STALL), unit: "s", bad: [2, 8] },
      { name: "Output tokens/s", expr: five('type="output"', "llm_tokens_total"), unit: "short", decimals: 1 },
      { name: "Wasted tokens/s", expr: five("", "llm_wasted_tokens_total"), unit: "short", decimals: 1 },
    ],
  ),
  lines(
    {
      title: "Requests by instance", unit: "reqps", width: 8,
      description: "Whether the balancer balances.",
    },
    [range(requests("", "instance, server"), "{{instance}} {{server}}")],
  ),
  lines(
    {
      title: "In flight by instance", unit: "short", width: 8,
      description: "A server whose requests pile up while others' do not is stuck.",
    },
    [range(`sum by (instance, server) (llm_requests_in_flight{${NO_MODEL}})`, "{{instance}} {{server}}")],
  ),
  lines(
    {
      title: "TTFT p95 by instance", unit: "s", width: 8,
      description: "A single slow node: a throttled GPU, a cold cache, a noisy neighbour.",
    },
    [range(quantile(0.95, TTFT, "instance, server"), "{{instance}} {{server}}")],
  ),
];

/** All means those with an empty label too: requests that failed have no model. */
const everything = (name: string, query: string, text: string) =>
  several(name, query, text).allValue(".*");

export function serving(): Dashboard {
  const to = start(
    "LLM serving",
    "llmtrace-serving",
    "What the users of LLM servers get, seen by llmtrace from the kernel.",
  )
    .withVariable(several("job", "label_values(llmtrace_build_info, job)", "Job"))
    .withVariable(
      label("role", 'label_values(llm_requests_total{job=~"$job"}, role)', "Seen at the")
        .description("server: traced at the serving end; client: at processes that call a server. One at a time, or a request that is traced at both ends counts twice.")
        .current({ selected: true, text: "server", value: "server" }),
    )
    .withVariable(everything("server", 'label_values(llm_requests_total{role="$role"}, server)', "Server"))
    .withVariable(everything("model", 'label_values(llm_requests_total{role="$role", server=~"$server"}, model)', "Model"));
  section(to, "Health", health);
  section(to, "Traffic and errors", traffic);
  section(to, "Latency", latency);
  section(to, "Tokens and cost", tokens);
  section(to, "Aborts, stalls and waiting", waiting);
  section(to, "Load and quality", load);
  section(to, "SLO and goodput", slo);
  section(to, "Anomalies", anomalies);
  section(to, "Instances", instances);
  return to.build();
}
