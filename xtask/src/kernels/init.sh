#!/bin/busybox sh
# The guest's first process: a system of a few mounts, the programs, one scene after another. What it says on the first
# serial line is read by machine.rs; the kernel's own words go to the second one.
/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin HOME=/ MESH_TEST_PATIENCE=@PATIENCE@
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
for module in /modules/*.ko; do
    insmod "$module" || echo "no $module"
done
ip link set lo up
hostname guest
ulimit -n 65536
exec 3>/dev/ttyS0

seconds() {
    cut -d' ' -f1 /proc/uptime
}

echo "@up $(uname -r)" >&3
start=$(seconds)
/mesh/mesh-agent programs --json >/tmp/programs 2>/tmp/errors
code=$?
echo "@programs $code" >&3
cat /tmp/programs /tmp/errors >&3
echo "@end programs $code $start $(seconds)" >&3

# No scene can pass without the programs, and each would wait for long.
[ "$code" = 0 ] || : >/scenes
while read -r scene; do
    start=$(seconds)
    echo "@scene $scene" >&3
    timeout -s KILL @SCENE_LIMIT@ /mesh/deps/scenes --exact "$scene" >/tmp/output 2>&1 </dev/null
    code=$?
    [ "$code" = 0 ] || tail -c 30000 /tmp/output >&3
    # After what it said, which may not end its last line.
    echo >&3
    echo "@end $scene $code $start $(seconds)" >&3
done </scenes
echo "@done" >&3
# The emulator ends instead of booting again.
reboot -f
