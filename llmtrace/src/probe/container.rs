//! Which container a process is in: read from the names of cgroups, in which every runtime puts
//! the container's id.
//!
//! | Where | Path |
//! |---|---|
//! | kubelet, cgroupfs driver | `/kubepods/burstable/podUID/ID` |
//! | kubelet, systemd driver | `/kubepods.slice/.../kubepods-burstable-podUID.slice/cri-containerd-ID.scope` |
//! | the same, CRI-O | `.../crio-ID.scope`, with what crun puts below: `.../crio-ID.scope/container` |
//! | containerd without either | `/kubepods-besteffort-podUID.slice:cri-containerd:ID` |
//! | Docker, podman | `/docker/ID`, `/system.slice/docker-ID.scope`, `/machine.slice/libpod-ID.scope` |

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::ProbeError;

/// Letters of a container's id.
const ID: usize = 64;
/// Fewest letters by which a user may name a container.
const SHORTEST: usize = 4;
/// Most folders that are looked at for a container.
const MAX_FOLDERS: usize = 65_536;
/// Processes that look after a container from within its pod are not in it.
const NOT_INSIDE: &str = "crio-conmon-";

/// A container, as a cgroup's path tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Container {
    pub id: String,
    /// Whether the kubelet has started it.
    pub in_pod: bool,
}

/// The container that the cgroup of this path belongs to.
pub fn of_path(path: &str) -> Option<Container> {
    // From the innermost on: a node may be a container itself (kind, k3d).
    let id = path.rsplit('/').find_map(|part| {
        if part.starts_with(NOT_INSIDE) {
            return None;
        }
        let part = part.strip_suffix(".scope").unwrap_or(part);
        let id = part.rsplit(['-', ':']).next()?;
        is_id(id).then(|| id.to_owned())
    })?;
    Some(Container { id, in_pod: path.contains("kubepods") })
}

fn is_id(text: &str) -> bool {
    text.len() == ID && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The container that a process is in.
pub fn of_process(pid: u32) -> Option<Container> {
    of_file(&fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?)
}

/// From `/proc/PID/cgroup`: the line of the v2 hierarchy, else any.
fn of_file(text: &str) -> Option<Container> {
    let path = |line: &str| line.splitn(3, ':').nth(2).and_then(of_path);
    let v2 = text.lines().find(|line| line.starts_with("0::")).and_then(path);
    v2.or_else(|| text.lines().find_map(path))
}

/// The cgroup of the container whose id begins with `id`, below `root`.
pub fn find(root: &Path, id: &str) -> Result<PathBuf, ProbeError> {
    let fail = |reason: &str| ProbeError::Cgroup {
        path: format!("of container {id}"),
        reason: reason.into(),
    };
    // As `kubectl` and `crictl` print them: containerd://ID.
    let wanted = id.rsplit_once("://").map_or(id, |(_, id)| id).to_ascii_lowercase();
    if wanted.len() < SHORTEST || !wanted.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(fail("that is not an id of a container, nor the beginning of one"));
    }
    let mut found: Option<(String, PathBuf)> = None;
    let mut folders = vec![root.to_owned()];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            if seen >= MAX_FOLDERS || !entry.file_type().is_ok_and(|t| t.is_dir()) {
                continue;
            }
            seen += 1;
            let path = entry.path();
            let name = entry.file_name();
            match of_path(&name.to_string_lossy()) {
                Some(Container { id, .. }) if id.starts_with(&wanted) => match &found {
                    // What is below it is in it.
                    Some((other, _)) if *other != id => {
                        return Err(fail("several containers begin like that"));
                    }
                    Some(_) => {}
                    None => found = Some((id, path)),
                },
                _ => folders.push(path),
            }
        }
    }
    found.map(|(_, path)| path).ok_or_else(|| fail("no cgroup has its id: is it running here?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "4b2a5c1f0e9d8c7b6a5f4e3d2c1b0a99887766554433221100ffeeddccbbaa99";
    const B: &str = "4b2affffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";
    const UID: &str = "0d1c2b3a-4e5f-6071-8293-a4b5c6d7e8f9";

    #[test]
    fn every_runtime_and_driver() {
        let slice = UID.replace('-', "_");
        let pods = [
            format!("/kubepods/burstable/pod{UID}/{A}"),
            format!("/kubepods/pod{UID}/{A}"),
            format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slice}.slice/cri-containerd-{A}.scope"
            ),
            format!("/kubepods.slice/kubepods-pod{slice}.slice/crio-{A}.scope"),
            format!("/kubepods.slice/kubepods-pod{slice}.slice/crio-{A}.scope/container"),
            format!(
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{slice}.slice/docker-{A}.scope"
            ),
            format!("/kubepods-besteffort-pod{slice}.slice:cri-containerd:{A}"),
            // As seen from a container with a cgroup namespace of its own.
            format!("/../../kubepods-burstable-pod{slice}.slice/cri-containerd-{A}.scope"),
            // kind: the node is a container, and so is what is on it.
            format!(
                "/docker/{B}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{slice}.slice/cri-containerd-{A}.scope"
            ),
            // A container that runs systemd.
            format!("/kubepods/burstable/pod{UID}/{A}/system.slice/vllm.service"),
        ];
        for path in pods {
            let want = Container { id: A.into(), in_pod: true };
            assert_eq!(of_path(&path), Some(want), "{path}");
        }
        let others = [
            format!("/docker/{A}"),
            format!("/system.slice/docker-{A}.scope"),
            format!("/machine.slice/libpod-{A}.scope/container"),
            format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{A}.scope"),
        ];
        for path in others {
            let want = Container { id: A.into(), in_pod: false };
            assert_eq!(of_path(&path), Some(want), "{path}");
        }
    }

    #[test]
    fn what_is_no_container() {
        let upper = A.to_uppercase();
        let paths = [
            "/".to_owned(),
            "/system.slice/vllm.service".into(),
            "/user.slice/user-0.slice/session-1.scope".into(),
            format!("/kubepods/burstable/pod{UID}"),
            format!("/kubepods/burstable/pod{UID}/{}", &A[1..]),
            format!("/kubepods/burstable/pod{UID}/{A}0"),
            format!("/kubepods/burstable/pod{UID}/{upper}"),
            format!("/kubepods.slice/crio-conmon-{A}.scope"),
        ];
        for path in paths {
            assert_eq!(of_path(&path), None, "{path}");
        }
    }

    #[test]
    fn both_versions_of_the_hierarchy() {
        let id = |text: &str| of_file(text).map(|c| c.id);
        assert_eq!(id(&format!("0::/kubepods/pod{UID}/{A}\n")).as_deref(), Some(A));
        let hybrid = format!("12:memory:/docker/{A}\n1:name=systemd:/docker/{A}\n0::/init.scope\n");
        assert_eq!(id(&hybrid).as_deref(), Some(A));
        // A path may have colons.
        let colons = format!("0::/kubepods-pod{UID}.slice:cri-containerd:{A}\n");
        assert_eq!(id(&colons).as_deref(), Some(A));
        assert_eq!(id("0::/\n"), None);
        assert_eq!(id("nonsense"), None);
    }

    #[test]
    fn found_by_the_beginning_of_its_id() {
        let root = std::env::temp_dir().join(format!("llmtrace-cgroups-{}", std::process::id()));
        let of_a = root.join(format!("kubepods.slice/x.slice/cri-containerd-{A}.scope"));
        fs::create_dir_all(of_a.join("init")).unwrap();
        fs::create_dir_all(root.join(format!("system.slice/docker-{B}.scope"))).unwrap();
        let find = |id: &str| find(&root, id);
        assert_eq!(find(&A[..12]).unwrap(), of_a);
        assert_eq!(find(&format!("containerd://{A}")).unwrap(), of_a);
        assert!(find("4b2a").unwrap_err().to_string().contains("several"));
        assert!(find("123456").unwrap_err().to_string().contains("is it running"));
        for bad in ["", "4b2", "../..", "vllm-0"] {
            assert!(find(bad).unwrap_err().to_string().contains("not an id"), "{bad}");
        }
        fs::remove_dir_all(root).unwrap();
    }
}
