# Tiny guests end as they should on a true KVM.
# lab: memory=512 timeout=180 smoke
. /lab/host.sh

grep -q svm /proc/cpuinfo || die "No SVM in /proc/cpuinfo"
[ -c /dev/kvm ] || die "No /dev/kvm"

guest hang 60 --kernel builtin:hang --memory 16MiB
expect "A guest that stops petting: its watchdog fires" 10
guest panic 60 --kernel builtin:panic --memory 16MiB
expect "A guest that panics" 11
guest triple 60 --kernel builtin:triple-fault --memory 16MiB
expect "A triple fault" 12
guest reset 60 --kernel builtin:reset --memory 16MiB --on-reset exit
expect "A reset" 14
guest off 60 --kernel builtin:off --memory 16MiB
expect "A guest that powers off" 0
