# Linux's own i6300esb driver: found, queried, fires on time, tells the next start, and is stopped only as it should be.
# lab: timeout=600 smoke
. /lab/host.sh

cmdline="console=ttyS0 panic=-1 quiet"
kernel="--kernel $kernels/generic/vmlinux --entry pvh --memory 256MiB"

# ---- one guest, started twice: its watchdog resets it ----

guest_initrd twice generic tools <<'END'
status=/sys/class/watchdog/watchdog0
modprobe i6300esb
dmesg | grep -i i6300esb
wdctl /dev/watchdog0
if [ "$(cat $status/bootstatus)" = 0 ]; then
    rmmod i6300esb
    modprobe i6300esb heartbeat=10
    echo "GUEST opened $(cut -d ' ' -f 1 /proc/uptime)"
    exec 9>/dev/watchdog
    while :; do
        echo "GUEST alive $(cut -d ' ' -f 1 /proc/uptime)"
        usleep 10000
    done
fi
echo "GUEST bootstatus $(cat $status/bootstatus)"
rmmod i6300esb
modprobe i6300esb heartbeat=2
echo "GUEST reloaded: bootstatus $(cat $status/bootstatus)"
exec 9>/dev/watchdog
echo "GUEST state $(cat $status/state)"
printf V >&9
exec 9>&-
echo "GUEST state $(cat $status/state)"
sleep 5
echo "GUEST survived"
END
guest twice 200 $kernel --initrd twice.cpio --watchdog reset --cmdline "$cmdline"
expect "A guest that its watchdog reset starts anew and powers off" 0 "starts again"

check "The driver says its heartbeat" printed 'initialized. heartbeat=30 sec'
check "wdctl knows the device" printed 'Identity:.*i6300ESB timer'
check "wdctl knows the time-out" printed 'Timeout: *30 seconds'
check "wdctl knows what the driver can do" printed 'KEEPALIVEPING.*Keep alive ping reply'

# Times of the guest's own clock, in ms.
time_of() { sed -n "s/\r//; s/.*GUEST $1 \([0-9]*\)\.\([0-9]*\)$/\1\20/p" "$log" | tail -n 1; }
ran=$(($(time_of alive) - $(time_of opened)))
if [ "$ran" -ge 9950 ] && [ "$ran" -le 10250 ]; then
    ok "Opened and never pinged, a heartbeat of 10 fires after 10.066 s"
else
    fail "Opened and never pinged, a heartbeat of 10 fired after $ran ms of the guest's time"
fi
note "fired after $ran ms of the guest's time"

check "The next start knows that the watchdog reset it" printed 'GUEST bootstatus 32'
check "wdctl shows it, too" printed 'CARDRESET.* 1 *'
check "After a reload of the driver no more" printed 'GUEST reloaded: bootstatus 0'
check "Open, the watchdog runs" printed 'GUEST state active'
check "Closed after a V, it does not" printed 'GUEST state inactive'
check "and never fires" printed 'GUEST survived'

# ---- nowayout ----

guest_initrd nowayout generic <<'END'
modprobe i6300esb nowayout=1 heartbeat=3
exec 9>/dev/watchdog
printf V >&9
exec 9>&-
echo "GUEST closed"
rmmod i6300esb && echo "GUEST unloaded"
sleep 20
END
guest nowayout 100 $kernel --initrd nowayout.cpio --cmdline "$cmdline"
expect "With nowayout a V does not stop it" 10 'GUEST closed'
