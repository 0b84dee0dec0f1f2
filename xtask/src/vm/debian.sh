#!/bin/busybox sh
# The first program of the machine: unpacks Debian into memory and makes its systemd the first one.
# /extra is from a second archive, which the kernel has put beside this one.
/bin/busybox mkdir -p /dev /system
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t tmpfs -o mode=755,size=75% system /system
/bin/busybox tar -x -f /system.tar -C /system
/bin/busybox rm /system.tar
# What was left out of this system is not left out of what is installed in it.
/bin/busybox rm -f /system/etc/dpkg/dpkg.cfg.d/99mmdebstrap
/bin/busybox cp -a /extra/. /system/
/bin/busybox rm -rf /extra
# Not the first boot of all: nothing is preset.
echo 0123456789abcdef0123456789abcdef > /system/etc/machine-id
exec /bin/busybox switch_root /system /lib/systemd/systemd
