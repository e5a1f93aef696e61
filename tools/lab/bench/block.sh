# How fast a guest's disk is beside QEMU's microvm: one RAM-backed block device of the host, one guest kernel, one load.
# lab: memory=1024 timeout=1500 silence=600 icount
. /lab/host.sh

modprobe brd rd_nr=1 rd_size=16384 2>/dev/null
disk=/dev/ram0
[ -b $disk ] || die "No $disk"
cp /lab/block.load /tmp/load
mkdir -p /tmp/extra && cp /lab/block.load /tmp/extra/load
guest_initrd load generic <<'END'
modprobe -a virtio_pci virtio_blk
for load in sync:1500 sync:1500 write:1500 read:1500 deep-write:4000 deep-read:4000 long-write:48 long-read:48; do
    /load /dev/vda "${load%:*}" "${load#*:}"
done
END
(cd /tmp/extra && echo load | cpio -o -H newc 2>/dev/null) >>/tmp/load.cpio

for kernel in generic; do
    guest ours 600 --kernel "$kernels/$kernel/vmlinux" --initrd load.cpio --memory 256MiB --disk "$disk" \
        --cmdline "console=ttyS0 panic=-1 quiet random.trust_cpu=on"
    sed -n 's/.*BENCH/BENCH ours/p' "$log" | while read -r line; do note "$line"; done
    expect "ours" 0 "GUEST end 0"
    log=/tmp/qemu.log
    timeout -s KILL 600 qemu-system-x86_64 -L "$library/qemu" -M microvm,pcie=on,acpi=on,x-option-roms=off -accel kvm -cpu host -display none -serial stdio -nodefaults \
        -no-user-config -no-reboot -m 256 -kernel "$kernels/$kernel/vmlinux" -initrd load.cpio \
        -object iothread,id=t -drive file=$disk,format=raw,if=none,id=d,cache=none,aio=${AIO:-native} -device virtio-blk-pci,drive=d \
        -append "console=ttyS0 panic=-1 quiet random.trust_cpu=on" >"$log" 2>&1 </dev/null
    sed -n 's/.*BENCH/BENCH qemu/p' "$log" | while read -r line; do note "$line"; done
    code=$?
    expect "qemu" 0 "GUEST end 0"
done
