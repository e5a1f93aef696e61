# Debian's generic kernel boots to a shell by every entry, small and large, and complains of nothing that it likes in QEMU.
# lab: memory=2304 timeout=900
. /lab/host.sh

guest_initrd shell generic <<'END'
echo "GUEST cpus $(nproc) memory_mib $(($(sed -n 's/MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo) / 1024))"
dmesg -r | sed -n 's/^<\([0-9]*\)>\(.*\)/\1 \2/p' | while read -r level text; do
    [ $((level & 7)) -gt 4 ] || echo "COMPLAINT $text"
done
END

cmdline="console=ttyS0 panic=-1"
elf=$kernels/generic/vmlinux

# booted WHAT CPUS LEAST-MEMORY-MIB: the last guest came to its shell with these.
booted() {
    expect "$1" 0 'GUEST end 0' || return
    local cpus memory
    cpus=$(sed -n 's/.*GUEST cpus \([0-9]*\).*/\1/p' "$log")
    memory=$(sed -n 's/.*memory_mib \([0-9]*\).*/\1/p' "$log")
    [ "$cpus" = "$2" ] || fail "$1: the guest sees '$cpus' processors where it has $2"
    [ "${memory:-0}" -ge "$3" ] || fail "$1: the guest sees '$memory' MiB where at least $3 are due"
    note "$1: $took_ms ms"
    cp "$log" "/tmp/booted-$1"
}

guest shell 120 --kernel "$elf" --entry pvh --initrd shell.cpio --memory 256MiB --cmdline "$cmdline"
booted "ELF by PVH" 1 200
guest shell 120 --kernel "$elf" --entry linux --initrd shell.cpio --memory 256MiB --cmdline "$cmdline"
booted "ELF by the 64-bit Linux entry" 1 200
guest shell 180 --kernel "$kernels/generic/vmlinuz" --initrd shell.cpio --memory 256MiB --cmdline "$cmdline"
booted "bzImage" 1 200
guest shell 180 --kernel "$elf" --initrd shell.cpio --memory 256MiB --vcpus 4 --cmdline "$cmdline"
booted "4 processors" 4 190
guest shell 120 --kernel "$elf" --initrd shell.cpio --memory 128MiB --cmdline "$cmdline"
booted "128 MiB" 1 70
guest shell 180 --kernel "$elf" --initrd shell.cpio --memory 5GiB --cmdline "$cmdline"
booted "5 GiB" 1 4800

# ---- the same under QEMU, and what is printed here only ----

qemu_guest qemu 180 -m 256 -kernel "$elf" -initrd shell.cpio -append "$cmdline"
grep -q 'GUEST end 0' "$log" || die "The kernel does not boot under QEMU"

# complaints LOG: its errors and warnings without times, numbers and the code dump of a warning, which differ from run to run.
complaints() {
    tr -d '\r' <"$1" | sed -n 's/^.*COMPLAINT \(\[[^]]*\] \)\{0,1\}//p' |
        sed '/^Code: /d; s/0x[0-9a-f]*/N/g; s/[0-9a-f]*[0-9][0-9a-f]*/N/g' | sort -u
}
complaints "$log" >/tmp/known
grep -v -e '^#' -e '^$' /lab/boot.allowed >/tmp/allowed
for log in /tmp/booted-*; do
    complaints "$log" | grep -v -x -F -f /tmp/known | grep -v -E -f /tmp/allowed >/tmp/new
    if [ -s /tmp/new ]; then
        fail "${log#/tmp/booted-}: complaints that QEMU's guest does not have: $(tr '\n' ';' </tmp/new)"
    else
        ok "${log#/tmp/booted-}: no complaint that QEMU's guest does not have"
    fi
done
