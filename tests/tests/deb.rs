//! The Debian package, installed for real on a copy of this machine: an overlay in a mount namespace of
//! its own, which is gone when its last process is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use llmtrace_tests::agent::require_bpf;
use llmtrace_tests::clock::wait_for;
use llmtrace_tests::http;
use llmtrace_tests::net::free_port;
use llmtrace_tests::paths::{self, TempDir};
use llmtrace_tests::process::Process;
use rustix::process::{Pid, Signal, kill_process};

#[track_caller]
fn package() -> PathBuf {
    let path = paths::root().join("target/deb/llmtrace.deb");
    assert!(path.exists(), "no {}: `cargo xtask deb` makes it", path.display());
    path
}

/// Installs, starts what was installed as its unit says, and removes it.
const SCRIPT: &str = r#"
set -e
mount -t tmpfs tmpfs "$DIR"
mkdir "$DIR/upper" "$DIR/work" "$DIR/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$DIR/upper,workdir=$DIR/work" "$DIR/root"
for part in proc sys dev; do mount --rbind "/$part" "$DIR/root/$part"; done
cp "$DEB" "$DIR/root/llmtrace.deb"
cat > "$DIR/root/inside" <<'INSIDE'
set -e
dpkg --install /llmtrace.deb
dpkg --verify llmtrace
echo "files: $(dpkg --listfiles llmtrace | tr '\n' ' ')"
echo "conffiles: $(dpkg-query --show --showformat '${Conffiles}' llmtrace | tr '\n' ' ')"
unit=$(dpkg --listfiles llmtrace | grep 'system/llmtrace.service$')
caps=$(sed -n 's/^AmbientCapabilities=//p' "$unit" | sed 's/CAP_/+/g; s/ /,/g' | tr A-Z a-z)
start=$(sed -n 's/^ExecStart=//p' "$unit")
LLMTRACE_LISTEN=127.0.0.1:$PORT setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs \
    --inh-caps "-all,$caps" --ambient-caps "-all,$caps" --bounding-set "-all,$caps" $start &
echo "agent: $!"
wait $!
echo "status: $?"
echo '# changed' >> /etc/llmtrace/llmtrace.toml
dpkg --remove llmtrace
ls /etc/llmtrace/llmtrace.toml
dpkg --purge llmtrace
! ls /etc/llmtrace/llmtrace.toml /usr/bin/llmtrace 2>&1
echo purged
INSIDE
exec chroot "$DIR/root" /bin/sh /inside
"#;

#[test]
fn installed_started_and_purged() {
    require_bpf();
    let (dir, port) = (TempDir::new(), free_port());
    let mut process = Process::spawn(
        Command::new("unshare")
            .args(["--mount", "--propagation", "private", "/bin/sh", "-c", SCRIPT])
            .env("DIR", dir.path())
            .env("DEB", package())
            .env("PORT", port.to_string())
            .env("DEBIAN_FRONTEND", "noninteractive"),
    );
    let line = |process: &mut Process, start: &str| {
        wait_for(start, Duration::from_secs(120), || {
            assert!(process.try_wait().is_none(), "{}", process.output().text());
            process.output().find(|line| line.starts_with(start))
        })
    };
    line(&mut process, "ready ");
    let (status, text) = http::get(port, "/metrics").expect("the installed agent answers");
    assert_eq!(status, 200);
    let version = format!("llmtrace_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
    assert!(text.contains(&version), "{text}");
    assert_eq!(http::get(port, "/readyz").unwrap().0, 200);
    let agent = line(&mut process, "agent: ");
    let agent: i32 = agent.trim_start_matches("agent: ").parse().unwrap();
    let exe = fs::read_link(format!("/proc/{agent}/exe")).unwrap();
    assert!(exe.ends_with("root/usr/bin/llmtrace"), "in its own root: {}", exe.display());
    kill_process(Pid::from_raw(agent).unwrap(), Signal::TERM).unwrap();
    let status = process.wait(Duration::from_secs(60));
    let printed = process.finish_output();
    assert!(status.success(), "{status}: {printed}");
    for wanted in ["status: 0", "/etc/llmtrace/llmtrace.toml", "purged"] {
        assert!(printed.lines().any(|line| line == wanted), "{wanted}: {printed}");
    }
    let list = |start: &str| printed.lines().find(|line| line.starts_with(start)).unwrap();
    let files = list("files: ");
    for file in [
        "/usr/bin/llmtrace",
        "/etc/llmtrace/llmtrace.toml",
        "/usr/share/man/man1/llmtrace.1.gz",
        "/usr/share/man/man1/llmtrace-run.1.gz",
        "/usr/share/bash-completion/completions/llmtrace",
        "/usr/share/zsh/vendor-completions/_llmtrace",
        "/usr/share/fish/vendor_completions.d/llmtrace.fish",
        "/usr/share/doc/llmtrace/copyright",
        "/usr/share/doc/llmtrace/examples/tls.conf",
        "system/llmtrace.service",
    ] {
        assert!(files.contains(file), "{file}: {files}");
    }
    assert!(list("conffiles: ").contains("/etc/llmtrace/llmtrace.toml"));
    assert!(
        !Path::new("/usr/bin/llmtrace").exists(),
        "on the machine itself nothing was installed"
    );
}
