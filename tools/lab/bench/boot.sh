# How fast a guest starts beside QEMU's q35: Debian's cloud kernel as ELF to its init, and a guest of a few instructions.
# lab: memory=1536 timeout=1500 silence=90 icount
. /lab/host.sh

mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
measure=/lab/boot.measure
kernel=/tmp/vmlinux
cp "$kernels/cloud/vmlinux" $kernel
$measure files /tmp
# Nothing may wait for the disk while it is measured: with instructions for a clock, waiting is skipped in leaps.
cat "$library"/qemu/* >/dev/null 2>&1
qemu-system-x86_64 --version >/dev/null
qemu="$(command -v qemu-system-x86_64) -L $library/qemu -M q35 -accel kvm -cpu host -nodefaults -display none -serial stdio"
qemu="$qemu -no-reboot -m 256"
duplexvm="$(command -v duplexvm) boot --memory 256MiB"
quiet="console=ttyS0 quiet loglevel=0 panic=-1 random.trust_cpu=on swiotlb=noforce 8250.nr_uarts=1"
quiet="$quiet i8042.noaux i8042.nomux i8042.dumbkbd"

# start NAME MARKER COMMAND...: a line of figures; $ms is the time.
start() {
    local name=$1 marker=$2 line
    shift 2
    line=$($measure run "$marker" 256 "$@") || { fail "$name does not start"; return 1; }
    note "$name: $line"
    ms=$(echo "$line" | sed 's/^ms \([0-9]*\)\.\([0-9][0-9]\).*/\1\2/')
}

# ratio WHAT MOST-PERCENT: of the last two times, ours first.
ratio() {
    local percent=$((ours * 10000 / theirs))
    note "$1: $((percent / 100)).$((percent % 100)) % of q35"
    [ "$percent" -le "$(($2 * 100))" ] && ok "$1 takes at most $2 % of q35's time" || fail "$1 takes $percent / 10000 of q35's time"
}

for tests in "" cryptomgr.notests; do
    start "duplexvm, Debian's cloud kernel $tests" GUEST-INIT $duplexvm --kernel $kernel --initrd /tmp/init.cpio --cmdline "$quiet $tests"
    ours=$ms
    start "q35, Debian's cloud kernel $tests" GUEST-INIT $qemu -kernel $kernel -initrd /tmp/init.cpio -append "$quiet $tests"
    theirs=$ms
    ratio "Debian's cloud kernel $tests" 84
done
start "duplexvm, a tiny guest" TINY-GUEST $duplexvm --kernel /tmp/tiny.elf
ours=$ms
start "q35, a tiny guest" TINY-GUEST $qemu -kernel /tmp/tiny.elf
theirs=$ms
ratio "A tiny guest" 5
$measure steps GUEST-INIT $duplexvm --kernel $kernel --initrd /tmp/init.cpio --cmdline "$quiet cryptomgr.notests" |
    while read -r line; do note "$line"; done
