//! The Helm chart, rendered by Helm's library, and the kustomization, by kubectl, checked against the
//! schemas of Kubernetes and the types of the Prometheus operator; and the container file. No cluster is at
//! hand, so none of them is started here.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use llmtrace_tests::paths;
use serde_json::{Value, json};

/// Of custom resources, which Kubernetes has no schemas of.
const OPERATOR: &str = "monitoring.coreos.com/";

/// The objects, or what is wrong.
fn manifests(kind: &str, folder: &str, more: &[String]) -> Result<Vec<Value>, String> {
    let script = paths::root().join("tests/fixtures/manifests.py");
    let mut command = Command::new(paths::python());
    command.arg(script).arg(kind).arg(paths::root().join("deploy").join(folder)).args(more);
    let output = command.stdin(Stdio::null()).output().expect("python");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let objects: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    operator(&objects)?;
    Ok(objects)
}

/// What the Prometheus operator would say of those that are its own.
fn operator(objects: &[Value]) -> Result<(), String> {
    let group =
        |object: &Value| object["apiVersion"].as_str().is_some_and(|v| v.starts_with(OPERATOR));
    let own: Vec<&Value> = objects.iter().filter(|object| group(object)).collect();
    if own.is_empty() {
        return Ok(());
    }
    let mut node = Command::new("node");
    node.arg(paths::root().join("tests/fixtures/operator.mjs")).current_dir(paths::node());
    node.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut node = node.spawn().expect("node");
    let text = serde_json::to_vec(&own).expect("JSON");
    node.stdin.take().expect("piped").write_all(&text).expect("node reads");
    let output = node.wait_with_output().expect("it is our child");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}

#[track_caller]
fn chart(values: &Value) -> Vec<Value> {
    manifests("helm", "helm/llmtrace", &[values.to_string()]).unwrap()
}

#[track_caller]
fn base() -> Vec<Value> {
    manifests("kustomize", "kustomize/base", &[]).unwrap()
}

fn kinds(objects: &[Value]) -> BTreeSet<&str> {
    objects.iter().filter_map(|object| object["kind"].as_str()).collect()
}

#[track_caller]
fn one<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let mut of = objects.iter().filter(|object| object["kind"] == kind);
    let found = of.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(of.next().is_none(), "several {kind}");
    found
}

fn pod(objects: &[Value]) -> &Value {
    &one(objects, "DaemonSet")["spec"]["template"]["spec"]
}

fn container(objects: &[Value]) -> &Value {
    &pod(objects)["containers"][0]
}

fn added(objects: &[Value]) -> &Value {
    &container(objects)["securityContext"]["capabilities"]["add"]
}

/// No more than the agent needs, whoever has written it down.
#[track_caller]
fn assert_least_privilege(objects: &[Value]) {
    let (pod, container) = (pod(objects), container(objects));
    assert_eq!(pod["hostPID"], true);
    for absent in ["hostNetwork", "hostIPC"] {
        assert!(pod[absent].is_null());
    }
    let context = &container["securityContext"];
    assert_eq!(context["privileged"], false);
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert_eq!(context["readOnlyRootFilesystem"], true);
    assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
    assert_eq!(added(objects), &json!(["BPF", "PERFMON", "SYS_PTRACE", "DAC_READ_SEARCH"]));
    let mounts = container["volumeMounts"].as_array().unwrap();
    assert!(mounts.iter().all(|mount| mount["readOnly"] == true), "{mounts:?}");
    let volumes = pod["volumes"].as_array().unwrap();
    let host: Vec<_> = volumes.iter().filter_map(|v| v["hostPath"]["path"].as_str()).collect();
    assert_eq!(host, ["/sys/fs/cgroup"]);
    let rules = json!([{ "apiGroups": [""], "resources": ["nodes/pods"], "verbs": ["get"] }]);
    assert_eq!(one(objects, "ClusterRole")["rules"], rules);
}

/// The agent knows every argument.
#[track_caller]
fn assert_runs(objects: &[Value]) {
    let args = container(objects)["args"].as_array().unwrap().iter();
    let args: Vec<String> =
        args.map(|arg| arg.as_str().unwrap().replace("$(NODE_IP)", "10.0.0.4")).collect();
    // Its file is in a ConfigMap.
    let args = args.iter().filter(|arg| !arg.starts_with("--config="));
    // Wrong ones come before the help.
    let output = Command::new(paths::agent()).args(args).arg("--help").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn by_default_chart_and_kustomization_are_the_same() {
    let (chart, base) = (chart(&json!({})), base());
    for objects in [&chart, &base] {
        assert_least_privilege(objects);
        assert_runs(objects);
    }
    for part in ["securityContext", "env", "ports", "resources", "readinessProbe", "livenessProbe"]
    {
        assert_eq!(container(&chart)[part], container(&base)[part], "{part}");
    }
    for part in ["tolerations", "nodeSelector", "hostPID"] {
        assert_eq!(pod(&chart)[part], pod(&base)[part], "{part}");
    }
    let common =
        BTreeSet::from(["ClusterRole", "ClusterRoleBinding", "DaemonSet", "ServiceAccount"]);
    assert_eq!(kinds(&chart), common);
    let more = BTreeSet::from(["ConfigMap", "Namespace"]);
    assert_eq!(kinds(&base), common.union(&more).copied().collect());
}

#[test]
fn everything_that_the_chart_can_do() {
    let all = chart(&json!({
        "fullnameOverride": "tracer",
        "tls": true,
        "config": "port = [8000]\n[[slo]]\nttft = \"500ms\"\n",
        "targets": { "ports": [8000, 8001], "comm": ["vllm*"], "exe": ["/opt/sglang/*"] },
        "kubelet": { "resource": "nodes/proxy", "insecureSkipVerify": true },
        "monitor": { "kind": "ServiceMonitor", "labels": { "release": "prometheus" } },
        "prometheusRule": { "enabled": true },
        "resources": { "limits": { "nvidia.com/gpu": 0, "memory": "1Gi" } },
        "securityContext": { "extraCapabilities": ["SYS_RESOURCE"] },
        "extraArgs": ["--ring-mib=16"],
        "extraEnv": [{ "name": "RUST_BACKTRACE", "value": "1" }],
        "tolerations": [{ "key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule" }],
    }));
    assert_runs(&all);
    let caps =
        json!(["BPF", "PERFMON", "SYS_PTRACE", "DAC_READ_SEARCH", "SYS_ADMIN", "SYS_RESOURCE"]);
    assert_eq!(added(&all), &caps);
    let args = container(&all)["args"].to_string();
    for arg in ["--port=8001", "--comm=vllm*", "--exe=/opt/sglang/*", "--kubelet-insecure"] {
        assert!(args.contains(arg), "{args}");
    }
    assert_eq!(one(&all, "ClusterRole")["rules"][0]["resources"], json!(["nodes/proxy"]));
    let config = one(&all, "ConfigMap")["data"]["llmtrace.toml"].as_str().unwrap();
    assert_eq!(config.trim_end(), "port = [8000]\n[[slo]]\nttft = \"500ms\"");
    let monitor = one(&all, "ServiceMonitor");
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    // Prometheus finds the service by its labels, and the service the pods by theirs.
    let (service, daemon) = (one(&all, "Service"), one(&all, "DaemonSet"));
    let wanted = monitor["spec"]["selector"]["matchLabels"].as_object().unwrap();
    let labels = &daemon["spec"]["template"]["metadata"]["labels"];
    for (name, value) in wanted {
        assert_eq!(&service["metadata"]["labels"][name], value);
    }
    for (name, value) in service["spec"]["selector"].as_object().unwrap() {
        assert_eq!(&labels[name], value);
    }
    let rules = one(&all, "PrometheusRule")["spec"]["groups"][0]["rules"].to_string();
    assert!(
        rules.contains("llmtrace_lost_records_total") && rules.contains("{{ $labels.instance }}")
    );

    let pods = chart(&json!({ "monitor": { "kind": "PodMonitor" } }));
    assert_eq!(one(&pods, "PodMonitor")["spec"]["podMetricsEndpoints"][0]["port"], "metrics");
}

/// That a mistake in a monitor is found, of whichever kind it is.
#[test]
fn monitors_are_what_the_operator_knows() {
    for kind in ["ServiceMonitor", "PodMonitor"] {
        let mut objects =
            chart(&json!({ "monitor": { "kind": kind }, "prometheusRule": { "enabled": true } }));
        let right = objects.clone();
        let n = objects.iter().position(|object| object["kind"] == kind).unwrap();
        let list = if kind == "PodMonitor" { "podMetricsEndpoints" } else { "endpoints" };
        let mut refused = |path: &str, name: &str, value: Value| {
            let place = objects[n].pointer_mut(path).unwrap();
            place[name] = value;
            let said = operator(&objects).expect_err(name);
            objects.clone_from(&right);
            said
        };
        let first = format!("/spec/{list}/0");
        let said = refused(&first, "intervall", "15s".into());
        assert!(said.contains("'\"intervall\"' does not exist"), "{said}");
        let said = refused(&first, "interval", "soon".into());
        assert!(said.contains("interval must match pattern"), "{said}");
        let said = refused("/spec", "selector", Value::Null);
        assert!(said.contains("selector"), "{said}");
        let said = refused(&format!("{first}/relabelings/0"), "action", "keepp".into());
        assert!(said.contains("action"), "{said}");
        let rules = objects.iter().position(|object| object["kind"] == "PrometheusRule").unwrap();
        objects[rules]["spec"]["groups"][0]["rules"][0]["fro"] = "1m".into();
        let said = operator(&objects).unwrap_err();
        assert!(said.contains("'\"fro\"' does not exist"), "{said}");
    }
}

/// Without the kubelet nothing of the cluster's API is used, so nothing of it is asked for.
#[test]
fn no_kubelet_no_rights() {
    let objects = chart(&json!({ "kubelet": { "enabled": false } }));
    assert_eq!(kinds(&objects), BTreeSet::from(["DaemonSet", "ServiceAccount"]));
    assert_eq!(pod(&objects)["automountServiceAccountToken"], false);
    assert!(!container(&objects)["args"].to_string().contains("kubelet"));
}

#[test]
fn wrong_values_are_refused() {
    for values in [
        json!({ "port": 80 }),
        json!({ "monitor": { "kind": "Prometheus" } }),
        json!({ "targets": { "port": [8000] } }),
        json!({ "securityContext": { "extraCapabilities": ["ALL"] } }),
        json!({ "kubelet": { "resource": "nodes/*" } }),
    ] {
        let refused = manifests("helm", "helm/llmtrace", &[values.to_string()]);
        let said = refused.expect_err(&values.to_string());
        assert!(said.contains("HelmValuesError"), "{said}");
    }
    // That the schemas of Kubernetes are looked at.
    let values = json!({ "extraEnv": [{ "name": "A", "valeu": "b" }] });
    let said = manifests("helm", "helm/llmtrace", &[values.to_string()]).unwrap_err();
    assert!(said.contains("DaemonSet is not valid"), "{said}");
}

/// The base with a component.
#[track_caller]
fn overlay(component: &str) -> Vec<Value> {
    let base = paths::root().join("deploy/kustomize");
    let dir = paths::TempDir::new();
    let overlay = dir.join("overlay");
    std::fs::create_dir(&overlay).unwrap();
    for part in ["base", component] {
        let (from, to) = (base.join(part), dir.join(part));
        std::fs::create_dir(&to).unwrap();
        for file in std::fs::read_dir(from).unwrap().flatten() {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
    let text = format!(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n\
         resources: [../base]\ncomponents: [../{component}]\n"
    );
    std::fs::write(overlay.join("kustomization.yaml"), text).unwrap();
    manifests("kustomize", overlay.to_str().unwrap(), &[]).unwrap()
}

#[test]
fn tls_is_a_component() {
    let objects = overlay("tls");
    let caps = json!(["BPF", "PERFMON", "SYS_PTRACE", "DAC_READ_SEARCH", "SYS_ADMIN"]);
    assert_eq!(added(&objects), &caps);
}

#[test]
fn a_monitor_is_a_component_and_that_of_the_chart() {
    let chart = chart(&json!({ "monitor": { "kind": "PodMonitor" } }));
    let objects = overlay("monitor");
    let (monitor, daemon) = (one(&objects, "PodMonitor"), one(&objects, "DaemonSet"));
    let parts =
        |monitor: &Value| ["jobLabel", "podMetricsEndpoints"].map(|p| monitor["spec"][p].clone());
    assert_eq!(parts(monitor), parts(one(&chart, "PodMonitor")));
    assert_eq!(monitor["metadata"]["namespace"], daemon["metadata"]["namespace"]);
    let labels = &daemon["spec"]["template"]["metadata"]["labels"];
    assert_eq!(&monitor["spec"]["selector"]["matchLabels"], labels);
}

/// `tests/container.rs` builds it.
#[test]
fn the_container_file_lints() {
    let path = paths::root().join("deploy/container/Containerfile");
    let output = Command::new(paths::python_bin("hadolint")).arg(&path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}
