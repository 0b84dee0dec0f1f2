#!/bin/busybox sh
# The first program of the machine. Console: ttyS0; report: ttyS1.
/bin/busybox --install -s /bin
export PATH=/bin LLMTRACE_BIN=/bin/llmtrace RUST_BACKTRACE=1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
ip link set lo up
for word in $(cat /proc/cmdline); do
    case $word in
        vmtest.backend=*) backend=${word#vmtest.backend=} ;;
        vmtest.calls=*) calls=${word#vmtest.calls=} ;;
    esac
done
stty -F /dev/ttyS1 raw
if [ -n "$calls" ]; then
    timeout -s KILL 820 bench --only g --pairs 1 --calls "$calls" --out /tmp > /dev/ttyS1
    echo "vm: bench left with $?"
    poweroff -f
fi
# Killed and not asked: what hangs here hangs in the kernel.
timeout -s KILL 820 vmtest guest --backend "$backend" --report /dev/ttyS1
echo "vm: vmtest left with $?"
poweroff -f
