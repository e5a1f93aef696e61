# Two guests on two hosts talk over taps, bridges and the network: ping, and 64 MiB of TCP each way, offloads on and off.
# lab: hosts=2 memory=768 timeout=900
. /lab/host.sh

guest_initrd talk generic <<'END'
word() { sed "s/.*$1=\([0-9]*\).*/\1/" /proc/cmdline; }
me=$(word me) other=$(word other)
modprobe -a virtio_pci virtio_net
ip address add "10.0.1.$me/24" dev eth0
ip link set eth0 up
echo "GUEST features $(cat /sys/class/net/eth0/device/features)"
until ping -c 1 -W 1 "10.0.1.$other" >/dev/null; do :; done
echo "GUEST $(ping -c 5 -i 0.2 "10.0.1.$other" | grep loss)"

head -c 67108864 /dev/urandom >/sent
echo "GUEST sent $(md5sum </sent)"
give() { until nc "10.0.1.$other" 5000 </sent; do sleep 1; done; }
take() { nc -l -p 5000 >/got; }
if [ "$me" = 1 ]; then give; take; else take; give; fi
echo "GUEST got $(md5sum </got)"
# The other may still ask for what was lost of the end.
sleep 3
END

other=$((3 - NUMBER))
ip address flush dev eth0
brctl addbr br0
tunctl -t tap0 >/dev/null
brctl addif br0 eth0
brctl addif br0 tap0
ip link set tap0 up
ip link set br0 up

# talk NAME OPTIONS: both guests, and what each sent the other has got.
talk() {
    guest talk 300 --kernel "$kernels/generic/vmlinux" --initrd talk.cpio --memory 384MiB --tap "tap0,mac=52:54:00:00:01:0$NUMBER$2" \
        --cmdline "console=ttyS0 panic=-1 quiet me=$NUMBER other=$other"
    expect "$1: a guest talks and powers off" 0 'GUEST got [0-9a-f]'
    check "$1: no ping is lost" printed 'GUEST 5 packets transmitted, 5 packets received, 0% packet loss'
    lab mark "$1-$HOST-$(sed -n 's/.*GUEST sent \([0-9a-f]*\).*/\1/p' "$log")"
    within 60 lab marked "$1-$(echo "$HOST" | tr ab ba)-$(sed -n 's/.*GUEST got \([0-9a-f]*\).*/\1/p' "$log")" 2>/dev/null &&
        ok "$1: 64 MiB came as they were sent" || fail "$1: what came is not what was sent"
    note "$1: $took_ms ms"
}

# Bits of the features from the left: 0 and 1 checksums, 7 and 11 TCP segmentation.
talk on ""
check "With offloads the guest has them" printed 'GUEST features 11.....1...1'
lab mark "first-$HOST"
await first-a 60
await first-b 60
talk off ",offload=off"
check "Without offloads the guest has none" printed 'GUEST features 00.....0...0'
