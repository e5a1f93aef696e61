# A guest's disk that is slow, grows, is discarded and zeroed; what one disk does holds no other up.
# lab: memory=1024 timeout=600
. /lab/host.sh

modprobe brd rd_nr=1 rd_size=32768
# Half a second for each request, and room for many at once.
modprobe null_blk nr_devices=1 gb=1 irqmode=2 completion_nsec=500000000 hw_queue_depth=128 queue_mode=2 memory_backed=1
[ -b /dev/ram0 ] && [ -b /dev/nullb0 ] || die "No brd, no null_blk"
truncate -s 16M /var/tmp/grows 2>/dev/null || { mkdir -p /var/tmp && truncate -s 16M /var/tmp/grows; }
mkdir -p /disk && mke2fs -q /dev/ram0 >/dev/null 2>&1
mount -t ext4 /dev/ram0 /disk || die "No file system"
dd if=/dev/urandom of=/disk/image bs=1M count=16 2>/dev/null

guest_initrd disk generic <<'END'
modprobe -a virtio_pci virtio_blk
sectors() { cat "/sys/block/$1/size"; }
ms() { sed 's/^\([0-9]*\)\.\([0-9]*\) .*/\1\20/' /proc/uptime; }
echo "GUEST capacity $(sectors vda)"
until [ "$(sectors vda)" = 40960 ]; do sleep 0.1; done
echo "GUEST grown"
dd if=/dev/vda of=/dev/null bs=4k skip=5119 count=1 iflag=direct 2>/dev/null && echo "GUEST reads its end"
blkdiscard -o 1048576 -l 4194304 /dev/vda && echo "GUEST discarded"
dd if=/dev/vda bs=1M skip=1 count=4 iflag=direct 2>/dev/null | tr -d '\000' | wc -c | sed 's/^/GUEST left /'

# Sixteen requests of the slow disk at once, and the quick one meanwhile.
begun=$(ms)
for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do
    dd if=/dev/vdb of=/dev/null bs=4k skip=$((n * 100)) count=1 iflag=direct 2>/dev/null &
    last=$!
done
quick=$(ms)
dd if=/dev/zero of=/dev/vda bs=4k count=200 oflag=direct 2>/dev/null
echo "GUEST quick $(($(ms) - quick))"
wait
echo "GUEST slow $(($(ms) - begun))"
END

guest_start disk --kernel "$kernels/generic/vmlinux" --initrd disk.cpio --memory 256MiB --disk /disk/image --disk /dev/nullb0 \
    --cmdline "console=ttyS0 panic=-1 quiet"
within 90 printed 'GUEST capacity 32768' && ok "The guest sees the capacity" || fail "The guest does not see the capacity"
truncate -s 20M /disk/image
kill -USR1 "$vmm"
guest_end 120
expect "The guest ends by itself" 0 'GUEST end 0'
check "It saw its disk grow" printed 'GUEST grown'
check "It reads the new end" printed 'GUEST reads its end'
check "It discards" printed 'GUEST discarded'
check "What was discarded is gone" printed 'GUEST left 0.\?$'
figure() { sed -n "s/.*GUEST $1 \([0-9]*\).*/\1/p" "$log"; }
note "200 writes of the quick disk: $(figure quick) ms; 16 reads of the slow one at once: $(figure slow) ms"
[ "$(figure slow)" -ge 500 ] && [ "$(figure slow)" -lt 4000 ] && ok "Requests of one disk do not wait for each other" ||
    fail "16 requests of half a second each took $(figure slow) ms"
