# Images on block devices of both sector sizes, on a full and on a read-only file system, and in use: each is told, nothing lost.
# lab: memory=1024 timeout=240
. /lab/host.sh

modprobe brd rd_nr=2 rd_size=65536
# Sectors of 4096 bytes.
modprobe null_blk nr_devices=1 gb=1 bs=4096 memory_backed=1
[ -b /dev/ram1 ] && [ -b /dev/nullb0 ] || die "No brd, no null_blk"
mkdir -p /disk /mounted
mke2fs -q /dev/ram0 >/dev/null 2>&1
mount -t ext4 /dev/ram0 /disk || die "No file system"
dd if=/dev/urandom of=/disk/source bs=1M count=16 2>/dev/null

# What is there, and how long; a guest that runs may write meanwhile.
held() { ls -l /disk | awk '{ print $5, $9 }'; }

# refused WHAT CODE PATTERN ARGUMENTS...: `image` ends so, with one line that says so, and makes nothing.
refused() {
    local what=$1 due=$2 pattern=$3 before after code
    shift 3
    before=$(held)
    duplexvm image "$@" >/tmp/said 2>&1
    code=$?
    after=$(held)
    log=/tmp/said
    if [ "$code" = "$due" ] && grep -q "$pattern" /tmp/said && [ "$(wc -l </tmp/said)" = 1 ] && [ "$before" = "$after" ]; then
        ok "$what"
    else
        fail "$what: ended with $code; there was" $before "and is" $after
    fi
    log=
}
same() { cmp -n 16777216 "$1" "$2"; }

refused "A block device is not written over unasked" 2 'overwrite' import /disk/source /dev/nullb0
check "It is when that is said" duplexvm image import /disk/source /dev/nullb0 --overwrite
check "A disk of 4096-byte sectors has it" same /disk/source /dev/nullb0
check "One of 512-byte sectors, too" duplexvm image import /disk/source /dev/ram1 --overwrite
check "It has it" same /disk/source /dev/ram1
duplexvm image sizes /dev/nullb0 --json | grep -q '"sector_bytes":4096' && ok "Its sectors are told" || fail "Its sectors are not told"
refused "A device that is too small" 1 'larger device' import /dev/nullb0 /dev/ram1 --overwrite
mke2fs -q /dev/ram1 >/dev/null 2>&1
mount -t ext4 /dev/ram1 /mounted || die "It does not mount"
refused "A device that is mounted" 1 'in use by this host' import /disk/source /dev/ram1 --overwrite
mkdir /small
mount -t tmpfs -o size=8m tmpfs /small
before=$(df /small | tail -n 1)
refused "A file system that has no room" 1 'no room' create /small/large 1GiB
refused "A file system that fills up" 1 'no room' import /disk/source /small/copy
[ "$before" = "$(df /small | tail -n 1)" ] && [ -z "$(ls /small)" ] && ok "Nothing is left there" || fail "Something is left: $(ls /small)"
refused "One that cannot set room aside" 1 'sparse' create /disk/large 1MiB
guest_start runs --kernel builtin:hang --watchdog none --memory 16MiB --disk /disk/source
runs() { [ -n "$(event_ms guest_first_instruction)" ]; }
check "A guest runs on it" within 30 runs
refused "An image that a guest runs on is not read through" 1 'in use' check /disk/source
refused "Nor imported" 1 'in use' import /disk/source /disk/copy
log=/tmp/runs.log
kill "$vmm"
guest_end 20
mount -o remount,ro /disk
refused "A read-only file system" 1 'cannot be made' create /disk/new 1MiB
