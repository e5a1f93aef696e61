# A guest that throws a million random accesses at every register and queue ends as any other does.
# lab: hosts=2 memory=512 timeout=900
. /lab/host.sh

modprobe brd rd_nr=2 rd_size=8192
# Ten seeds, half of them on each host: beside each other.
seeds=5
first=$((SEED + (NUMBER - 1) * seeds))
for seed in $(seq $first $((first + seeds - 1))); do
    guest fuzz 300 --kernel builtin:fuzz --cmdline "seed=$seed count=100000" --memory 32MiB --watchdog none \
        --disk /dev/ram0 --disk /dev/ram1,ro --tap "tap0"
    expect "100,000 accesses of seed $seed" 0
    note "seed $seed: $took_ms ms"
done
check "The host's kernel has nothing to complain of" sh -c '! dmesg | grep -E "BUG|Oops|WARNING|stalled"'
