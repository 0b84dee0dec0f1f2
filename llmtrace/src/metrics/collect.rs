//! From the aggregate to families of metrics.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use super::cost::TYPES;
use super::defs;
use super::families::{Families, Form};
use super::hist::{COST, FIRST, Hist, NANO, RATIO, RATIO_UNIT, TOKENS};
use super::policy::{Bounds, Policy};
use super::process::Process;
use super::sent::{BySent, Outgoing};
use super::series::{Base, Reloads, Series, Status};
use super::slo::SLOS;
use super::{Own, Shared, TargetUse, labels};
use crate::llm::Role;

const SECONDS: f64 = 1e9;

impl Shared {
    /// Everything, in that form.
    pub(super) fn encode(&self, form: Form, gzip: bool) -> Vec<u8> {
        let mut snapshot = {
            let s = self.lock();
            Snapshot {
                policy: s.policy.clone(),
                all: s.series.iter().map(|(b, s)| (b.clone(), s.clone())).collect(),
                in_flight: s.in_flight.iter().map(|(b, running)| (b.clone(), running.n)).collect(),
                idle_cost: s.meter.idle(),
                own: s.own.clone(),
                targets: s.targets.clone(),
                backend: s.backend,
                reloads: s.reloads,
                outgoing: s.outgoing.clone(),
            }
        };
        // A scrape is like the one before it, so that it packs well and can be compared.
        snapshot.all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        snapshot.in_flight.sort_unstable();
        let Snapshot { policy, all, in_flight, own, .. } = &snapshot;
        let mut out = Families::new(form, gzip);
        requests(&mut out, all);
        times(&mut out, all, &policy.bounds);
        tokens(&mut out, all);
        out.add(&defs::IN_FLIGHT, in_flight.iter().map(|(b, n)| (Some(b), [], *n as f64)));
        objectives(&mut out, policy, all);
        costs(&mut out, policy, all, snapshot.idle_cost);
        agent(&mut out, own, snapshot.backend);
        configuration(&mut out, snapshot.reloads);
        targets(&mut out, &snapshot.targets);
        sent(&mut out, &snapshot.outgoing);
        process(&mut out, Process::read());
        out.finish()
    }
}

/// What a scrape shows, taken while nothing is counted.
struct Snapshot {
    policy: Arc<Policy>,
    all: Vec<(Base, Arc<Series>)>,
    in_flight: Vec<(Base, u64)>,
    idle_cost: f64,
    own: Arc<Own>,
    targets: Arc<[TargetUse]>,
    backend: Option<&'static str>,
    reloads: Reloads,
    outgoing: Outgoing,
}

type All = [(Base, Arc<Series>)];

fn requests(out: &mut Families, all: &All) {
    // Statuses are the only numbers among the labels.
    let mut codes: Vec<u16> = Vec::new();
    let status = |s: Status| match s {
        Status::Code(code) => Some(code),
        Status::None | Status::Other => None,
    };
    codes.extend(all.iter().flat_map(|(_, s)| s.requests.keys()).filter_map(|r| status(r.status)));
    codes.sort_unstable();
    codes.dedup();
    let texts: HashMap<u16, String> = codes.into_iter().map(|c| (c, c.to_string())).collect();
    let text = |s: Status| match s {
        Status::None => "",
        Status::Code(code) => texts.get(&code).map_or(labels::OTHER, String::as_str),
        Status::Other => labels::OTHER,
    };
    let values = all.iter().flat_map(|(b, s)| s.requests.iter().map(move |(r, n)| (b, r, n)));
    out.add(
        &defs::REQUESTS,
        values.map(|(b, r, n)| {
            let stream = if r.stream { "true" } else { "false" };
            (Some(b), [r.method, stream, text(r.status), r.outcome], *n as f64)
        }),
    );
    let finish = all.iter().flat_map(|(b, s)| s.finish.iter().map(move |f| (b, f)));
    out.add(&defs::FINISH, finish.map(|(b, (reason, n))| (Some(b), [*reason], *n as f64)));
}

fn times(out: &mut Families, all: &All, bounds: &Bounds) {
    out.hist(
        &defs::DURATION,
        (&bounds.whole, SECONDS),
        all.iter().flat_map(|(b, s)| [(b, ["false"], &s.whole), (b, ["true"], &s.whole_stream)]),
    );
    out.hist(
        &defs::GAPS,
        (&bounds.gap, SECONDS),
        all.iter()
            .flat_map(|(b, s)| [(b, ["usage"], &s.gaps.usage), (b, ["events"], &s.gaps.events)]),
    );
    let mut plain = |def, bounds: &[u64], of: fn(&Series) -> &Hist| {
        out.hist(def, (bounds, SECONDS), all.iter().map(|(b, s)| (b, [], of(s))));
    };
    plain(&defs::FIRST_BYTE, &bounds.first, |s| &s.first_byte);
    plain(&defs::FIRST_TOKEN, &bounds.first, |s| &s.first_token);
    plain(&defs::RECEIVE, FIRST, |s| &s.receive);
    plain(&defs::QUEUE, FIRST, |s| &s.queue);
    plain(&defs::BACKPRESSURE, FIRST, |s| &s.backpressure);
    plain(&defs::PER_TOKEN, &bounds.per_token, |s| &s.per_token);
    plain(&defs::STALL, &bounds.gap, |s| &s.stall);
}

fn tokens(out: &mut Families, all: &All) {
    out.add(
        &defs::TOKENS,
        all.iter().flat_map(|(b, s)| {
            let t = &s.tokens;
            [
                ("prompt", "usage", t.prompt),
                ("output", "usage", t.output.usage),
                ("output", "events", t.output.events),
                ("cached", "usage", t.cached),
                ("reasoning", "usage", t.reasoning),
            ]
            .into_iter()
            .filter_map(move |(kind, source, n)| Some((Some(b), [kind, source], n? as f64)))
        }),
    );
    let mut plain = |def, of: fn(&Series) -> Option<u64>| {
        out.add(def, all.iter().filter_map(|(b, s)| Some((Some(b), [], of(s)? as f64))));
    };
    plain(&defs::WASTED, |s| s.wasted);
    plain(&defs::EVENTS, |s| s.events);
    plain(&defs::EMPTY, |s| s.empty);
    out.hist(&defs::PROMPT, (TOKENS, 1.0), all.iter().map(|(b, s)| (b, [], &s.prompt)));
    out.hist(&defs::OUTPUT, (TOKENS, 1.0), all.iter().map(|(b, s)| (b, [], &s.output)));
    let repetition = all.iter().map(|(b, s)| (b, [], &s.repetition));
    out.hist(&defs::REPETITION, (RATIO, RATIO_UNIT), repetition);
}

fn objectives(out: &mut Families, policy: &Policy, all: &All) {
    let counts = all.iter().flat_map(|(b, s)| {
        let of_slo = SLOS.into_iter().zip(s.slo).filter_map(|(slo, n)| Some((slo, n?)));
        of_slo.flat_map(move |(slo, [not, met])| [(b, slo, "false", not), (b, slo, "true", met)])
    });
    out.add(&defs::SLO, counts.map(|(b, slo, met, n)| (Some(b), [slo, met], n as f64)));
    let targets: Vec<_> = (policy.slos.iter())
        .flat_map(|slo| {
            let model = slo.model.to_string();
            let targets = SLOS.into_iter().zip([slo.ttft, slo.tpot, slo.e2e]);
            targets.filter_map(move |(slo, ns)| Some((slo, model.clone(), ns? as f64 / SECONDS)))
        })
        .collect();
    let targets = targets.iter().map(|(slo, model, seconds)| (None, [*slo, model], *seconds));
    out.add(&defs::SLO_TARGET, targets);
}

fn costs(out: &mut Families, policy: &Policy, all: &All, idle: f64) {
    let nobody = Base { role: Role::Server, server: "".into(), endpoint: "", model: "".into() };
    let idle = (policy.cost.as_ref()).and_then(|cost| cost.gpus).map(|_| (&nobody, "gpu", idle));
    let costs = all.iter().flat_map(|(b, s)| {
        let each = TYPES.into_iter().zip(s.cost.each());
        each.filter_map(move |(kind, cost)| Some((b, kind, cost?)))
    });
    out.add(&defs::COST, costs.chain(idle).map(|(b, kind, cost)| (Some(b), [kind], cost)));
    let requests = all.iter().map(|(b, s)| (b, [], &s.request_cost));
    out.hist(&defs::REQUEST_COST, (COST, NANO), requests);
    let currency = policy.cost.iter().map(|cost| (None, [&*cost.currency], 1.0));
    out.add(&defs::COST_INFO, currency);
}

fn targets(out: &mut Families, targets: &[TargetUse]) {
    let named: Vec<_> = targets.iter().map(|t| (t.pid.to_string(), t)).collect();
    let mut add = |def, of: fn(&TargetUse) -> Option<f64>| {
        let values =
            named.iter().filter_map(|(pid, t)| Some((None, [&**pid, &*t.process], of(t)?)));
        out.add(def, values);
    };
    add(&defs::TARGET_CPU, |t| t.cpu_seconds);
    add(&defs::TARGET_RESIDENT, |t| t.resident_bytes.map(|n| n as f64));
    add(&defs::TARGET_SOCKETS, |t| t.open_sockets.map(|n| n as f64));
    let gpus: Vec<_> = (named.iter())
        .flat_map(|(pid, t)| t.gpus.iter().map(move |g| (pid, &t.process, g.gpu.to_string(), g)))
        .collect();
    let gpus = || gpus.iter().map(|(pid, process, gpu, g)| ([&***pid, &***process, &**gpu], g));
    let memory = gpus().filter_map(|(labels, g)| Some((None, labels, g.memory_bytes? as f64)));
    out.add(&defs::TARGET_GPU_MEMORY, memory);
    let utilization = gpus().filter_map(|(labels, g)| Some((None, labels, g.utilization?)));
    out.add(&defs::TARGET_GPU_UTILIZATION, utilization);
}

fn agent(out: &mut Families, own: &Own, backend: Option<&'static str>) {
    let layered = [
        (&defs::RECORDS, &own.records),
        (&defs::LOST_RECORDS, &own.lost_records),
        (&defs::LOST_BYTES, &own.lost_bytes),
    ];
    for (def, values) in layered {
        out.add(def, values.iter().map(|(layer, why, n)| (None, [*layer, *why], *n as f64)));
    }
    for (def, values) in [(&defs::RESYNCS, &own.resyncs), (&defs::INCOMPLETE, &own.incomplete)] {
        out.add(def, values.iter().map(|(why, n)| (None, [*why], *n as f64)));
    }
    out.one(&defs::CONNECTIONS, Some(own.connections as f64));
    out.one(&defs::TARGETS, Some(own.targets as f64));
    let tls = own.tls_libraries.iter();
    out.add(
        &defs::TLS_LIBRARIES,
        tls.map(|(library, state, n)| (None, [*library, *state], *n as f64)),
    );
    out.one(&defs::IO_URING_TARGETS, own.io_uring_targets.map(|n| n as f64));
    let info: Vec<_> = own.target_info.iter().map(|t| (t.pid.to_string(), t)).collect();
    let info = info.iter().map(|(pid, t)| {
        (None, [&**pid, &t.process, &t.container, &t.pod, &t.namespace, &t.image], 1.0)
    });
    out.add(&defs::TARGET_INFO, info);
    out.add(&defs::BUILD_INFO, [(None, [env!("CARGO_PKG_VERSION")], 1.0)].into_iter());
    out.add(&defs::BACKEND_INFO, backend.into_iter().map(|b| (None, [b], 1.0)));
}

fn sent(out: &mut Families, outgoing: &Outgoing) {
    let gauges: Vec<_> = outgoing.gauges.iter().map(|g| (g, labels::clean(&g.model))).collect();
    out.add(
        &defs::ANOMALY,
        gauges.iter().map(|(g, model)| {
            let value = if g.active { 1.0 } else { 0.0 };
            (None, [g.signal, g.method, g.severity, &g.server, model], value)
        }),
    );
    let anomalies = outgoing.anomalies.iter();
    out.add(&defs::ANOMALIES, anomalies.map(|(labels, n)| (None, *labels, *n as f64)));
    let unwatched = outgoing.unwatched.into_iter();
    out.add(&defs::ANOMALY_UNWATCHED, unwatched.map(|n| (None, [], n as f64)));
    let told = outgoing.notifications.into_iter().flat_map(BySent::all);
    out.add(&defs::NOTIFICATIONS, told.map(|(result, n)| (None, [result], n as f64)));
    let log_errors = outgoing.log_errors.into_iter();
    out.add(&defs::REQUEST_LOG_ERRORS, log_errors.map(|n| (None, [], n as f64)));
    let items = outgoing
        .otlp
        .iter()
        .flat_map(|(signal, by)| by.all().map(|(result, n)| (None, [*signal, result], n as f64)));
    out.add(&defs::OTLP_ITEMS, items);
}

fn configuration(out: &mut Families, reloads: Reloads) {
    let counts = [("ok", reloads.ok), ("failed", reloads.failed)];
    out.add(&defs::RELOADS, counts.into_iter().map(|(result, n)| (None, [result], n as f64)));
    let last = reloads.last.duration_since(UNIX_EPOCH).map(|since| since.as_secs_f64());
    out.one(&defs::RELOADED, last.ok());
}

fn process(out: &mut Families, p: Process) {
    out.one(&defs::CPU, p.cpu_seconds);
    out.one(&defs::RESIDENT, p.resident);
    out.one(&defs::VIRTUAL, p.virtual_size);
    out.one(&defs::OPEN_FDS, p.open_fds);
    out.one(&defs::MAX_FDS, p.max_fds);
    out.one(&defs::START_TIME, p.start_time);
    out.one(&defs::THREADS, p.threads);
}
