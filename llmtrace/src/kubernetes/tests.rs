//! Against a `fake_kubelet`, which is a thread that answers HTTP; tests/tests/kubernetes.rs has one
//! that speaks TLS and asks for a token.

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::*;

const FIRST_ID: &str = "1111111111111111111111111111111111111111111111111111111111111111";
const SECOND_ID: &str = "2222222222222222222222222222222222222222222222222222222222222222";

/// As a kubelet of 1.33 writes it, shortened.
fn pods(ids: &[&str]) -> String {
    let statuses: Vec<String> = ids
        .iter()
        .map(|id| {
            format!(
                r#"{{"name":"vllm","state":{{"running":{{}}}},"ready":true,"restartCount":0,
                    "image":"docker.io/vllm/vllm-openai:v0.11.0","imageID":"sha256:0",
                    "containerID":"containerd://{id}","started":true}}"#
            )
        })
        .collect();
    format!(
        r#"{{"kind":"PodList","apiVersion":"v1","metadata":{{}},"items":[
            {{"metadata":{{"name":"pending-0","namespace":"default"}},"spec":{{}},
              "status":{{"phase":"Pending","containerStatuses":[{{"name":"c","image":"i"}}]}}}},
            {{"metadata":{{"name":"static","namespace":"kube-system"}},"spec":{{}}}},
            {{"metadata":{{"name":"llama-0","namespace":"models","uid":"u"}},"spec":{{}},
              "status":{{"phase":"Running","initContainerStatuses":null,
                         "containerStatuses":[{}]}}}}]}}"#,
        statuses.join(",")
    )
}

#[test]
fn a_list_of_pods() {
    let members = pods::parse(pods(&[FIRST_ID]).as_bytes()).unwrap();
    let want = Member {
        namespace: "models".into(),
        pod: "llama-0".into(),
        container: "vllm".into(),
        image: "docker.io/vllm/vllm-openai:v0.11.0".into(),
    };
    assert_eq!(members.len(), 1);
    assert_eq!(*members[FIRST_ID], want);
    assert!(pods::parse(br#"{"items":null}"#).unwrap().is_empty());
    assert!(pods::parse(br#"{"kind":"Status","code":403}"#).unwrap().is_empty());
    for bad in [&b""[..], b"Unauthorized", b"7", br#"{"items":[{"metadata":{}}]}"#, b"\xff"] {
        assert!(pods::parse(bad).is_err(), "{bad:?}");
    }
}

/// Answers each connection with the next of `answers`, and the last one for ever.
fn fake_kubelet(answers: Vec<String>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let served = Arc::new(AtomicUsize::new(0));
    let count = served.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = [0; 4096];
            let n = stream.read(&mut head).unwrap();
            let head = String::from_utf8_lossy(&head[..n]).to_ascii_lowercase();
            assert!(head.starts_with("get /pods http/1.1"), "{head}");
            // In the clear: no token.
            assert!(!head.contains("authorization"), "{head}");
            let nth = count.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
            let _ = stream.write_all(answers[nth].as_bytes());
        }
    });
    (url, served)
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn options(url: &str) -> Options {
    Options {
        url: url.into(),
        token: "/nonexistent".into(),
        ca: "/nonexistent".into(),
        insecure: false,
    }
}

/// Process 1 and 2 are in pods, 3 is in a container and 4 in none.
fn container_of(pid: u32) -> Option<Container> {
    let id = [FIRST_ID, SECOND_ID, FIRST_ID].get(pid as usize - 1)?;
    Some(Container { id: (*id).into(), in_pod: pid != 3 })
}

#[test]
fn pods_are_known_at_once_and_new_ones_soon() {
    let (url, served) =
        fake_kubelet(vec![ok(&pods(&[FIRST_ID])), ok(&pods(&[FIRST_ID, SECOND_ID]))]);
    let kubelet = Kubelet::new(&options(&url)).unwrap();
    let mut kubernetes = Kubernetes::start_with(kubelet, container_of).unwrap();
    assert!(matches!(kubernetes.find(1), Found::Member(m) if m.pod == "llama-0"));
    assert_eq!((kubernetes.find(3), kubernetes.find(4)), (Found::Outside, Found::Outside));
    assert_eq!(served.load(Ordering::SeqCst), 1, "what is known is not asked for");
    assert_eq!(kubernetes.find(2), Found::Unknown);
    let end = Instant::now() + Duration::from_secs(20);
    while kubernetes.find(2) == Found::Unknown {
        assert!(Instant::now() < end, "the new pod stays unknown");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(served.load(Ordering::SeqCst), 2, "one question for however many lookups");
}

#[test]
fn a_kubelet_that_refuses_or_talks_nonsense() {
    let forbidden = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let elsewhere =
        "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nConnection: close\r\n\r\n{\"items\":[";
    for (answer, says) in [
        (forbidden.to_owned(), "nodes/proxy"),
        (elsewhere.to_owned(), ""),
        (cut.to_owned(), ""),
        (ok("Unauthorized"), "not a list of pods"),
        (String::new(), ""),
    ] {
        let (url, _) = fake_kubelet(vec![answer.clone()]);
        let error = Kubelet::new(&options(&url)).unwrap().members().unwrap_err();
        assert!(format!("{error:#}").contains(says), "{answer}: {error:#}");
    }
}

#[test]
fn options_that_cannot_be() {
    for (url, says) in [("10.0.0.4:10250", "has to begin"), ("https://10.0.0.4:10250", "CA")] {
        let error = Kubelet::new(&options(url)).err().unwrap();
        assert!(format!("{error:#}").contains(says), "{error:#}");
    }
}
