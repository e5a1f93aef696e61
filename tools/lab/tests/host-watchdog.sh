# A host that does not feed its own watchdog is reset by it, and starts anew.
# lab: watchdog memory=512 timeout=180
. /lab/host.sh

if [ "$(lab starts)" = 2 ]; then
    ok "The host was reset"
    exit 0
fi
modprobe i6300esb heartbeat=3
exec 9>/dev/watchdog
sleep 60
die "The watchdog did not reset the host"
