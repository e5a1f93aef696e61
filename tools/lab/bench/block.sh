# How fast a guest's disk is beside QEMU's microvm: the same block devices of the host, one guest kernel, one load.
# lab: memory=1536 timeout=1500 silence=40 icount
. /lab/host.sh

# Which disk, what load, how many requests, and how many times as fast as QEMU it has to be, in hundredths. `ram` is brd, which
# copies; `null` is null_blk, which moves nothing: what is left of a request of 1 MiB is what the kernels and the VMM make of it.
loads="ram:sync:1500:150 ram:write:1500:100 ram:read:1500:100 ram:deep-write:4000:120 ram:deep-read:4000:120
    ram:long-write:256:120 ram:long-read:256:120 ram:page-write:256:120 ram:page-read:256:120
    null:long-write:256:115 null:long-read:256:115 null:page-write:256:115 null:page-read:256:115"

modprobe brd rd_nr=1 rd_size=16384
modprobe null_blk nr_devices=1 gb=1 max_sectors=2048
ram=/dev/ram0 null=/dev/nullb0
[ -b $ram ] && [ -b $null ] || die "No $ram, or no $null"
dd if=/dev/zero of=$ram bs=1M count=16 2>/dev/null

# By the kernel's log, which needs no interrupt: microvm's serial port has none. A reset ends both machines.
guest_initrd load generic <<END
modprobe -a virtio_pci virtio_blk
insmod /virtio_mmio.ko
say() { sed 's/^/<0>/' >/dev/kmsg; }
# By their sizes: which is the first is the VMM's choice.
ram=/dev/vda null=/dev/vdb
[ "\$(cat /sys/block/vda/size)" = 32768 ] || { ram=/dev/vdb null=/dev/vda; }
# The first one warms up.
/load \$ram sync 300 2>&1 | grep -v BENCH | say
for load in $(echo $loads); do
    IFS=: read -r disk what count due <<LOAD
\$load
LOAD
    eval "device=\\$\$disk"
    /load \$device \$what \$count 2>&1 | sed "s/BENCH /BENCH \$disk:/" | say
done
echo GUEST end | say
reboot -f
END
mkdir -p /tmp/extra
cp /lab/block.load /tmp/extra/load
# What microvm's disks are reached by.
cp "/lib/modules/$(cat "$kernels/generic/release")/kernel/drivers/virtio/virtio_mmio.ko" /tmp/extra/
(cd /tmp/extra && find . | cpio -o -H newc 2>/dev/null) >>/tmp/load.cpio
cmdline="console=ttyS0 panic=-1 quiet random.trust_cpu=on hugepages=1"
kernel=/tmp/vmlinux
cp "$kernels/generic/vmlinux" $kernel
# Nothing may wait for a disk while it is measured: with instructions for a clock, waiting is skipped in leaps.
cat "$library"/qemu/* >/dev/null
qemu-system-x86_64 --version >/dev/null
duplexvm --version >/dev/null

guest ours 600 --kernel $kernel --initrd load.cpio --memory 256MiB --disk $ram --disk $null \
    --cmdline "$cmdline" --on-reset exit
expect "The load runs under duplexvm" 14 'GUEST end'
cp "$log" /tmp/ours

log=/tmp/theirs
timeout -s KILL 900 qemu-system-x86_64 -L "$library/qemu" -nodefaults -no-user-config -M microvm,acpi=on -accel kvm -cpu host \
    -m 256 -display none -serial stdio -no-reboot -kernel $kernel -initrd load.cpio -append "$cmdline" \
    -drive "file=$ram,format=raw,if=none,id=ram,cache=none,aio=native" -device virtio-blk-device,drive=ram \
    -drive "file=$null,format=raw,if=none,id=null,cache=none,aio=native" -device virtio-blk-device,drive=null \
    >"$log" 2>&1 </dev/null
code=$?
expect "The load runs under QEMU" 0 'GUEST end'

# rate LOG WHAT: requests a second.
rate() { tr -d '\r' <"$1" | sed -n "s/.*BENCH $2 //p" | { read -r count ns && echo $((count * 1000000000 / ns)); }; }
for load in $loads; do
    due=${load##*:} what=${load%:*:*}
    ours=$(rate /tmp/ours "$what") theirs=$(rate /tmp/theirs "$what")
    log=
    if [ -z "$ours" ] || [ -z "$theirs" ]; then fail "$what: no figure"; continue; fi
    ratio=$((ours * 100 / theirs))
    text=$(printf '%-15s %6d/s, QEMU %6d/s: %d.%02d times' "$what" "$ours" "$theirs" $((ratio / 100)) $((ratio % 100)))
    if [ "$ratio" -ge "$due" ]; then ok "$text"; else fail "$text, $((due / 100)).$((due % 100)) are due"; fi
done
