//! Name, type, help and labels of every metric.

use prometheus::proto::MetricType;

pub(super) const BASE: &[&str] = &["role", "server", "endpoint", "model"];

#[derive(Clone, Copy, Debug)]
pub(super) struct Def {
    pub(super) name: &'static str,
    pub(super) kind: MetricType,
    /// Whether the base labels come before `labels`.
    pub(super) base: bool,
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
}

macro_rules! defs {
    ($($id:ident: $kind:ident $name:literal $base:literal [$($label:literal),*] $help:literal;)+) => {
        $(pub(super) const $id: Def = Def {
            name: $name,
            kind: MetricType::$kind,
            base: $base,
            labels: &[$($label),*],
            help: $help,
        };)+
        #[cfg(test)]
        pub(super) const ALL: &[Def] = &[$($id),+];
    };
}

defs! {
    REQUESTS: COUNTER "llm_requests_total" true ["method", "stream", "status", "outcome"]
        "Requests that are over, by how they ended. Incomplete ones, of which bytes were lost, are counted here and nowhere else.";
    DURATION: HISTOGRAM "llm_request_duration_seconds" true ["stream"]
        "Seconds from the first byte of the request head, delivered to the server process, to the last byte of the response or to the time it was given up.";
    FIRST_BYTE: HISTOGRAM "llm_time_to_first_byte_seconds" true []
        "Seconds from the first byte of the request head to the first byte of the final response head.";
    FIRST_TOKEN: HISTOGRAM "llm_time_to_first_token_seconds" true []
        "Streams only: seconds from the first byte of the request head to the write that carries the last byte of the first token-bearing event, reasoning and tool calls included.";
    PER_TOKEN: HISTOGRAM "llm_time_per_output_token_seconds" true []
        "Streams only: seconds from the first to the last token-bearing event, divided by the output tokens after the first event's.";
    GAPS: HISTOGRAM "llm_inter_token_latency_seconds" true ["source"]
        "Streams only: seconds between two token-bearing events of a choice, divided by the k tokens of the later one and observed k times. With source=\"events\", k is unknown and taken as 1.";
    STALL: HISTOGRAM "llm_stream_max_stall_seconds" true []
        "Streams only: largest gap between two token-bearing events of a stream, in seconds; one observation a stream.";
    RECEIVE: HISTOGRAM "llm_request_receive_seconds" true []
        "Seconds from the first to the last byte of the request (upload).";
    QUEUE: HISTOGRAM "llm_request_queue_seconds" true []
        "Servers only: seconds for which the first byte of a request waited in the socket before the server read it. Only of requests that begin with a read.";
    BACKPRESSURE: HISTOGRAM "llm_client_backpressure_seconds" true []
        "Streams of servers only: seconds for which writes of the response were held back by a client that reads slowly; one observation a stream, 0 included.";
    TOKENS: COUNTER "llm_tokens_total" true ["type", "source"]
        "Tokens by type. Cached ones are part of prompt, reasoning ones part of output. With source=\"events\", token-bearing events were counted, of which one may carry several tokens.";
    WASTED: COUNTER "llm_wasted_tokens_total" true []
        "Output tokens of requests whose client left before the end.";
    PROMPT: HISTOGRAM "llm_request_prompt_tokens" true []
        "Prompt tokens of a request, as the server reported them.";
    OUTPUT: HISTOGRAM "llm_request_output_tokens" true []
        "Output tokens of a request, as the server reported them, else its token-bearing events.";
    FINISH: COUNTER "llm_finish_total" true ["reason"]
        "Finish reasons that servers gave, of the first choice of a response.";
    EVENTS: COUNTER "llm_stream_events_total" true []
        "Events of streamed responses, with or without a token; comments do not count.";
    IN_FLIGHT: GAUGE "llm_requests_in_flight" true []
        "Requests that have begun and are not over. The model is not known yet and left empty.";
    SLO: COUNTER "llm_slo_requests_total" true ["slo", "met"]
        "Requests of models with an SLO, by whether they met it: the time to first token (ttft), the time per output token (tpot), the whole (e2e), or all of those that are set (all: goodput).";
    COST: COUNTER "llm_cost_total" true ["type"]
        "Cost of requests in the currency of llmtrace_cost_info, by what for: tokens, or a share of the time of the GPUs (gpu). What GPUs cost while nothing was in flight has empty base labels.";
    REQUEST_COST: HISTOGRAM "llm_request_cost" true []
        "Cost of a request, in the currency of llmtrace_cost_info.";
    REPETITION: HISTOGRAM "llm_output_repetition_ratio" true []
        "Streams only, with --quality: share of the output's sequences of four words that came before in the same answer, 0 to 1. Of answers with 20 such sequences or more.";
    EMPTY: COUNTER "llm_empty_answers_total" true []
        "Successful requests whose answer had no text and no call of a tool, of the APIs whose answers show it.";

    RECORDS: COUNTER "llmtrace_records_total" false ["layer", "reason"]
        "Records that passed a layer of the agent.";
    LOST_RECORDS: COUNTER "llmtrace_lost_records_total" false ["layer", "reason"]
        "Records that were lost, by the layer that lost them.";
    LOST_BYTES: COUNTER "llmtrace_lost_bytes_total" false ["layer", "reason"]
        "Bytes of traced traffic that were not seen, by the layer that lost them.";
    INCOMPLETE: COUNTER "llmtrace_incomplete_exchanges_total" false ["reason"]
        "Exchanges that were not seen whole, by the first thing that was missing.";
    RESYNCS: COUNTER "llmtrace_parse_resyncs_total" false ["reason"]
        "Times at which a direction of a connection could not be followed until its next message, or an event of a stream not be read whole (event_too_long, bad_frame).";
    CONNECTIONS: GAUGE "llmtrace_connections" false []
        "Connections that are followed.";
    TARGETS: GAUGE "llmtrace_targets" false []
        "Targets that are traced.";
    TLS_LIBRARIES: GAUGE "llmtrace_tls_libraries" false ["library", "state"]
        "Files with a TLS library that targets have mapped, by what became of their probes: anything but attached means TLS traffic that is not seen.";
    IO_URING_TARGETS: GAUGE "llmtrace_io_uring_targets" false []
        "Targets that have an io_uring while the hooks in use do not see all that is done by one: what they read by it is not traced. Absent where the hooks see it.";
    TARGET_INFO: GAUGE "llmtrace_target_info" false
        ["pid", "process", "container", "pod", "namespace", "image"]
        "1, with what a target in a pod is called in Kubernetes. Absent without --kubelet.";
    RELOADS: COUNTER "llmtrace_config_reloads_total" false ["result"]
        "Times at which the configuration file was read again, by result: ok, or failed, in which case the old one stayed.";
    RELOADED: GAUGE "llmtrace_config_last_reload_success_timestamp_seconds" false []
        "When the configuration in use was read, in seconds since the Unix epoch.";
    SLO_TARGET: GAUGE "llmtrace_slo_target_seconds" false ["slo", "model"]
        "Objectives of the configuration; model is the glob that it has.";
    COST_INFO: GAUGE "llmtrace_cost_info" false ["currency"]
        "1, with the currency of costs. Absent if no prices are configured.";
    TARGET_CPU: COUNTER "llmtrace_target_cpu_seconds_total" false ["pid", "process"]
        "User and system CPU time of a target process, in seconds.";
    TARGET_RESIDENT: GAUGE "llmtrace_target_resident_memory_bytes" false ["pid", "process"]
        "Resident memory of a target process, in bytes.";
    TARGET_SOCKETS: GAUGE "llmtrace_target_open_sockets" false ["pid", "process"]
        "Open sockets of a target process.";
    TARGET_GPU_MEMORY: GAUGE "llmtrace_target_gpu_memory_bytes" false ["pid", "process", "gpu"]
        "GPU memory that a target process holds, in bytes.";
    TARGET_GPU_UTILIZATION: GAUGE "llmtrace_target_gpu_utilization_ratio" false ["pid", "process", "gpu"]
        "Share of the time in which a target process had the GPU compute, 0 to 1.";
    ANOMALY: GAUGE "llmtrace_anomaly" false ["signal", "method", "severity", "server", "model"]
        "1 while a signal of a server and model is out of line with its own past, 0 for ten minutes after.";
    ANOMALIES: COUNTER "llmtrace_anomalies_total" false ["signal", "method", "severity"]
        "Anomalies that were found. One that becomes critical counts as both.";
    ANOMALY_UNWATCHED: COUNTER "llmtrace_anomaly_unwatched_requests_total" false []
        "Requests that were not looked at for anomalies: those of servers of which no model has answered yet, or for which there is no room. 200 models are watched.";
    NOTIFICATIONS: COUNTER "llmtrace_notifications_total" false ["result"]
        "Alerts that were sent to the Alertmanager, those that were sent again included: ok, failed (tried again) or dropped.";
    OTLP_ITEMS: COUNTER "llmtrace_otlp_items_total" false ["signal", "result"]
        "Spans and points of metrics that were exported: ok, failed (tried again) or dropped.";
    REQUEST_LOG_ERRORS: COUNTER "llmtrace_request_log_errors_total" false []
        "Writes of the request log that failed: lines are missing in it, or cut. Absent without such a log.";
    BUILD_INFO: GAUGE "llmtrace_build_info" false ["version"]
        "1, with the version of the agent.";
    BACKEND_INFO: GAUGE "llmtrace_backend_info" false ["backend"]
        "1, with the kind of kernel hook that captures.";

    CPU: COUNTER "process_cpu_seconds_total" false []
        "User and system CPU time of the agent, in seconds.";
    RESIDENT: GAUGE "process_resident_memory_bytes" false []
        "Resident memory of the agent, in bytes.";
    VIRTUAL: GAUGE "process_virtual_memory_bytes" false []
        "Virtual memory of the agent, in bytes.";
    OPEN_FDS: GAUGE "process_open_fds" false []
        "Open file descriptors of the agent.";
    MAX_FDS: GAUGE "process_max_fds" false []
        "Most file descriptors that the agent may open.";
    START_TIME: GAUGE "process_start_time_seconds" false []
        "Start of the agent, in seconds since the Unix epoch.";
    THREADS: GAUGE "process_threads" false []
        "Threads of the agent.";
}
