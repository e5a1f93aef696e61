# However a stock kernel ends, it is reported as what it was, within its own time.
# lab: hosts=2 timeout=900
. /lab/host.sh

# The guest does what its command line says.
guest_initrd ends generic tools <<'END'
modprobe -a i6300esb pvpanic-pci
do=$(sed 's/.*do=\([a-z-]*\).*/\1/' /proc/cmdline)
echo "GUEST does $do"
# The watchdog is armed and nobody pets it: what is not reported otherwise must be reported by it.
wdctl -s 6 >/dev/null
exec 9>/dev/watchdog
stty -F /dev/ttyS1 raw
echo READY >/dev/ttyS1
case "$do" in
    nothing) sleep 60 ;;
    crash) sync; echo c >/proc/sysrq-trigger ;;
    panic) rmmod pvpanic-pci; echo c >/proc/sysrq-trigger ;;
    lock-up) insmod /lib/hang.ko ;;
    reboot) reboot -f ;;
    poweroff) poweroff -f ;;
esac
sleep 60
END

# ends WHAT CODE WORDS LEAST-MS MOST-MS CMDLINE [ARGUMENTS...]: times from the guest's word that it begins to the report.
ends() {
    local what=$1 due=$2 words=$3 least=$4 most=$5 cmdline=$6 time
    shift 6
    guest ends 120 --kernel "$kernels/generic/vmlinux" --initrd ends.cpio --memory 256MiB --on-reset exit \
        --cmdline "console=ttyS0 $cmdline" "$@"
    expect "$what" "$due" "$words" || return
    time=$(event_ms guest_fault)
    time=$((${time:-$(event_ms guest_stopped)} - $(event_ms guest_ready)))
    if [ "$time" -ge "$least" ] && [ "$time" -le "$most" ]; then
        note "$what: $time ms"
    else
        fail "$what: reported after $time ms, due after $least to $most"
    fi
}

# Half of them on each host: beside each other.
if [ "$HOST" = a ]; then
    ends "Poweroff" 0 "powered off" 0 3000 "panic=-1 do=poweroff"
    ends "A guest that stops petting" 10 "atchdog" 5500 9000 "panic=-1 do=nothing"
    ends "A panic that pvpanic tells" 11 "panic" 0 3000 "panic=0 do=crash"
    ends "A panic without pvpanic that reboots" 14 "reset" 0 4000 "panic=-1 do=panic"
    ends "A panic without pvpanic that halts" 10 "atchdog" 5500 9000 "panic=0 do=panic"
    ends "A triple fault" 12 "riple fault" 0 3000 "panic=-1 reboot=t do=reboot"
    ends "A lock-up with interrupts off" 10 "atchdog" 5500 9000 "panic=-1 do=lock-up"
    exit 0
fi
ends "Reboot as the kernel likes it best" 14 "reset" 0 3000 "panic=-1 do=reboot"
ends "Reboot of 2 processors" 14 "reset" 0 4000 "panic=-1 do=reboot" --vcpus 2
ends "Reboot by ACPI" 14 "reset" 0 3000 "panic=-1 reboot=a do=reboot"
ends "Reboot by the keyboard controller" 14 "reset" 0 3000 "panic=-1 reboot=k do=reboot"
ends "Reboot by PCI" 14 "reset" 0 3000 "panic=-1 reboot=p do=reboot"

# ---- one kernel starts another ----

guest_initrd kexec generic tools "$kernels/generic/vmlinuz" <<'END'
mkdir -p /second/bin
cp /bin/busybox /second/bin/busybox
printf '#!/bin/busybox sh\n/bin/busybox echo "GUEST second kernel"\n/bin/busybox poweroff -f\n' >/second/init
chmod 755 /second/init
(cd /second && find . | cpio -o -H newc 2>/dev/null) >/second.cpio
kexec -s -l /vmlinuz --initrd=/second.cpio --append="console=ttyS0 panic=-1"
kexec -e
END
guest kexec 200 --kernel "$kernels/generic/vmlinux" --initrd kexec.cpio --memory 384MiB --cmdline "console=ttyS0 panic=-1"
expect "A kernel that another started by kexec" 0 'GUEST second kernel'
