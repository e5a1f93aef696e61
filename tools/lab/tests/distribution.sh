# A distribution boots from its virtio disk with systemd, and the disk keeps what it is given: lock-ups, fio, kill -9.
# lab: memory=1536 timeout=2400 root
. /lab/host.sh

root=$(disk_of root)

# boots NAME ARGUMENTS...: the distribution, with NAME's part for the guest.
boots() {
    local name=$1
    shift
    guest_start "$name" --kernel "$kernels/generic/vmlinux" --initrd "$name.cpio" --memory 512MiB --disk "$root" "$@" \
        --cmdline "console=ttyS0 panic=-1 quiet root=/dev/vda"
}

guest_initrd plain generic <<'END'
echo "GUEST runs $(cat /proc/1/comm) of $(. /etc/os-release && echo "$PRETTY_NAME") from $(findmnt -n -o SOURCE /)"
echo "GUEST watchdog $(cat /sys/class/watchdog/watchdog0/state)"
systemctl poweroff
END
boots plain
guest_end 300
expect "A distribution boots with systemd and powers off" 0 'GUEST runs systemd of Debian .* from /dev/vda'
check "systemd holds the watchdog" printed 'GUEST watchdog active'
note "Exec to power-off: $took_ms ms"

# ---- random writes, read again ----

modprobe brd rd_nr=1 rd_size=65536
guest_initrd fio generic <<'END'
fio() { command fio --rw=randwrite --bsrange=4k-128k --direct=1 --ioengine=libaio --iodepth=16 --verify=crc32c --verify_fatal=1 "$@"; }
fio --name=file --filename=/var/fio --size=48M --minimal >/dev/null && echo "GUEST file verified"
fio --name=disk --filename=/dev/vdb --size=64M --minimal >/dev/null && echo "GUEST disk verified"
systemctl poweroff
END
boots fio --disk /dev/ram0
guest_end 300
expect "fio reads what it wrote in a file" 0 'GUEST file verified'
check "fio reads what it wrote on a disk" printed 'GUEST disk verified'

# ---- fsync, then kill -9 ----

guest_initrd write generic <<'END'
head -c 3000000 /dev/urandom >/var/kept
sync /var/kept /var
echo "GUEST wrote $(sha256sum </var/kept)"
sleep 100
END
boots write
within 200 printed 'GUEST wrote .* -' || fail "The guest did not write its file"
kill -KILL "$vmm"
guest_end 10
wrote=$(sed -n 's/.*GUEST wrote \([0-9a-f]*\).*/\1/p' "$log")
guest_initrd read generic <<'END'
echo "GUEST reads $(sha256sum </var/kept)"
systemctl poweroff
END
boots read
guest_end 200
expect "A file that was written and synced is there after kill -9" 0 "GUEST reads ${wrote:-nothing}"

# ---- lock-ups under load: the watchdog resets the guest ----

guest_initrd locks generic tools <<'END'
count=$(($(cat /var/count 2>/dev/null || echo 0) + 1))
echo "GUEST start $count, $(cat /sys/class/watchdog/watchdog0/bootstatus)"
[ "$count" -le 10 ] || systemctl poweroff
echo "$count" >/var/count.new
sync /var/count.new
mv /var/count.new /var/count
sync /var
fio --name=load --filename=/var/load --size=32M --rw=randwrite --bs=4k --ioengine=libaio --iodepth=8 --fsync=16 --time_based --runtime=60 \
    --minimal >/dev/null &
(n=0; while :; do n=$((n + 1)); mkdir -p /var/tree/$((n % 7)); echo $n >/var/tree/$((n % 7))/$((n % 50)); rm -rf /var/tree/$((n % 5)); done) &
sleep 3
echo "GUEST locks up"
insmod /run/lab/hang.ko
END
boots locks --watchdog reset
guest_end 1200
starts=$(grep -c 'GUEST start' "$log")
resets=$(grep -c 'GUEST start [0-9]*, 32' "$log")
expect "A guest that locks up again and again is started again each time" 0 'GUEST start 11,'
[ "$starts" = 11 ] && ok "No start is lost: what was synced before a reset is there" || fail "11 starts are due, $starts were"
[ "$resets" = 10 ] && ok "Each start knows that the watchdog reset it" || fail "10 starts after a reset are due, $resets were"
e2fsck -f -n "$root" >/tmp/e2fsck.log 2>&1
code=$?
cat /tmp/e2fsck.log
[ "$code" = 0 ] && ok "The file system is clean after 10 resets under load" || fail "e2fsck ended with $code"
