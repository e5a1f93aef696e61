# A pair whose state disk hangs for longer than its guests' watchdogs allow: they pause, go on, and no watchdog fires early.
# lab: memory=1024 timeout=900
. /lab/host.sh

# The watchdog's time-out, 4.03 s; a pause of 10 s is due: the disk hangs for 18 s, the gate shuts after 8 s of them.
guest_initrd member generic <<'END'
modprobe -a virtio_pci virtio_blk
modprobe i6300esb heartbeat=4
n=0
while :; do
    echo >&9
    n=$((n + 1))
    echo "GUEST petted $n"
    sleep 0.5
done 9>/dev/watchdog
END

modprobe brd rd_nr=3 rd_size=8192
modprobe dm-mod
dmsetup create state --noudevsync --table "0 16384 linear /dev/ram0 0" || die "No disk that can hang"
seq 1000 1100 | head -c 64 >/tmp/key
chmod 600 /tmp/key
{
    printf '[pair]\nname = "sip0"\nkey_file = "key"\n[state]\ndisks = ["/dev/dm-0"]\n'
    for node in a:1 b:2; do
        printf '[[node]]\nname = "%s"\nlinks = ["127.0.0.%s:7600"]\ncontrol = "/tmp/%s.sock"\n' "${node%:*}" "${node#*:}" "${node%:*}"
    done
    printf '[guest]\nkernel = "%s"\ninitrd = "member.cpio"\nmemory = "160MiB"\nready = "pet"\n' "$kernels/generic/vmlinux"
    printf 'cmdline = "console=ttyS0 panic=-1 quiet"\nboot_timeout = "200s"\n'
    printf '[[member]]\nhome = "a"\nsystem = "/dev/ram1"\n[[member]]\nhome = "b"\nsystem = "/dev/ram2"\n'
    printf '[timing]\nheartbeat = "500ms"\nsuspect = "3s"\nrenew = "1s"\nio = "1s"\ndrain = "22s"\nlease = "30s"\nsettle = "600s"\n'
} >/tmp/pair.toml
duplexvm init --config /tmp/pair.toml || die "No state area"
for node in a b; do
    duplexvm run --config /tmp/pair.toml --node $node >/tmp/$node.events 2>/tmp/$node.err </dev/null &
done

happened() { grep -q "\"event\":\"$2\"" "/tmp/$1.events"; }
petted() { sed -n 's/\r//; s/^GUEST petted //p' /tmp/*."m$1.console" | tail -n 1; }
is_past() { [ "$(petted "$1")" -gt "$2" ]; }
is_paused() { for node in a b; do happened $node gate_shut || return 1; done; }
runs_on() { for node in a b; do happened $node gate_open || return 1; done; }
both_pet() { [ -n "$(petted 0)" ] && [ -n "$(petted 1)" ]; }

log=/tmp/a.err
within 300 both_pet && ok "Both guests pet their watchdogs" || die "They do not: $(tail -n 5 /tmp/a.err /tmp/b.err)"
sleep 5
dmsetup suspend --nolockfs --noudevsync state
hung_ms=$(uptime_ms)
within 20 is_paused && ok "The state disk hangs: both gates shut" || fail "A gate stayed open: $(tail -n 3 /tmp/a.events)"
paused_ms=$(uptime_ms)
note "The gates shut after $((paused_ms - hung_ms)) ms"
before0=$(petted 0)
while [ $(($(uptime_ms) - paused_ms)) -lt 10000 ]; do sleep 0.2; done
[ "$(petted 0)" -le $((before0 + 2)) ] && ok "A paused guest does nothing" || fail "It petted on: $before0, $(petted 0)"
dmsetup resume --noudevsync state
within 20 runs_on && ok "The disk is back: both gates open" || fail "A gate stayed shut: $(tail -n 3 /tmp/a.events)"
for member in 0 1; do
    check "Guest $member goes on where it was" within 30 is_past $member $(($(petted $member) + 20))
done
for node in a b; do
    happened $node guest_fault && fail "A fault after the pause: $(grep guest_fault /tmp/$node.events)"
    happened $node guest_stopped && fail "A guest was stopped: $(grep guest_stopped /tmp/$node.events)"
done
ok "No watchdog fired, no guest was stopped"
