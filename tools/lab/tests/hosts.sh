# The lab's own hosts: they share a disk and a network, lose links and power, and come back.
# lab: hosts=2 memory=512 disk=16 timeout=240 smoke
. /lab/host.sh

disk=$(disk_of shared)
answers() { ping -c 1 -W 1 "$1" >/dev/null; }
silent() { ! answers "$1"; }
write_disk() { printf '%-4096s' "$1" | dd of=$disk bs=4096 count=1 seek="$2" oflag=direct conv=notrunc 2>/dev/null; }
read_disk() { dd if=$disk bs=4096 count=1 skip="$1" iflag=direct 2>/dev/null | tr -d ' '; }

if [ "$HOST" = b ]; then
    write_disk "start-$(lab starts)" "$(lab starts)"
    lab mark "b-$(lab starts)"
    await done 200
    exit 0
fi

await b-1 60
[ "$(read_disk 1)" = start-1 ] && ok "What one host writes another reads" || fail "The disk holds '$(read_disk 1)'"
check "Hosts reach each other" within 20 answers 10.0.0.2
lab link a b cut
check "A cut link carries nothing" silent 10.0.0.2
lab link a b up
check "A mended link carries again" within 20 answers 10.0.0.2
lab link any any delay=200
round_trip=$(ping -c 3 10.0.0.2 | sed -n 's/.*min.* = \([0-9]*\)\..*/\1/p')
[ "${round_trip:-0}" -ge 400 ] && ok "A slow link is slow" || fail "The round trip takes '$round_trip' ms where 400 are due"
lab link any any up
lab power-off b
check "A host without power does not answer" silent 10.0.0.2
lab power-on b
await b-2 100
[ "$(read_disk 2)" = start-2 ] && ok "A host with power again starts anew" || fail "The disk holds '$(read_disk 2)'"
lab mark done
