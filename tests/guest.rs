//! Tiny guests on the real `/dev/kvm`.
//!
//! Where there is no KVM these tests fail and say so; `tools/check` lists them as not run instead of calling them.

mod guest {
    pub mod image;
    pub mod run;
    pub mod witness;
}

use std::sync::Arc;
use std::time::{Duration, Instant};

use duplexvm::clock;
use duplexvm::devices::reset::ResetKind;
use duplexvm::storage::gate::{LeaseGate, Left, Right};
use duplexvm::vmm::memory::Ram;
use duplexvm::vmm::pace::{Pace, Turn};
use duplexvm::vmm::prepared::Vm;
use duplexvm::vmm::report::{Report, Sink};

use guest::image::{Image, SECTOR_BYTES};
use guest::run::{Child, MEMORY_BYTES, PATIENCE, boot, pass_time, run};

// ---- `duplexvm boot`: each guest that ends, its exit code ----

/// Runs `duplexvm boot` and checks that it ends within ten seconds with `code`, saying `words` on stderr.
fn ends(guest: &str, code: i32, words: &str) {
    let began = Instant::now();
    let output = boot(&["--kernel", &format!("builtin:{guest}"), "--on-reset", "exit"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{guest}: {stderr}");
    assert!(began.elapsed() < Duration::from_secs(10), "{guest} took {:?}", began.elapsed());
    assert!(stderr.contains(words), "{guest}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "one line on stderr: {stderr}");
}

#[test]
fn off_ends_with_0() {
    ends("off", 0, "powered off");
}

#[test]
fn hang_ends_with_10() {
    ends("hang", 10, "watchdog expired");
}

#[test]
fn panic_ends_with_11() {
    ends("panic", 11, "panicked");
}

#[test]
fn triple_fault_ends_with_12() {
    ends("triple-fault", 12, "triple fault");
}

#[test]
fn wild_ends_with_13() {
    ends("wild", 13, "KVM cannot run");
}

#[test]
fn reset_ends_with_14() {
    ends("reset", 14, "reset");
}

#[test]
fn boot_says_what_is_wrong_with_its_arguments() {
    let cases: &[(&[&str], i32, &str)] = &[
        (&["--kernel", "builtin:nobody"], 2, "count, pet, hang"),
        (&["--kernel", "/nonexistent/vmlinux"], 1, "cannot be read"),
        (&["--kernel", "/proc/self/exe"], 2, "ELF"),
        (&["--kernel", "builtin:off", "--memory", "12"], 2, "multiple of 4 KiB"),
        (&["--kernel", "builtin:off", "--memory", "12XB"], 2, "unit"),
        (&["--kernel", "builtin:off", "--vcpus", "0"], 2, "processors"),
        (&["--kernel", "builtin:off", "--vcpus", "100000"], 2, "processors"),
        (&["--kernel", "builtin:off", "--disk", "/nonexistent/disk"], 1, "cannot be opened"),
        (&["--kernel", "builtin:off", "--disk", "/proc/self/status,ro"], 1, "O_DIRECT"),
        (&["--kernel", "builtin:off", "--disk", "/dev/null,ro"], 2, "neither a file nor a block device"),
        (&["--kernel", "builtin:off", "--tap", "sixteen-letters-"], 2, "no name of a network interface"),
        (&["--kernel", "builtin:off", "--tap", "lo"], 1, "no tap"),
        (&["--kernel", "builtin:off", "--tap", "tap0,mac=ff:ff:ff:ff:ff:ff"], 2, "MAC address"),
        (&["--kernel", "builtin:off", "--watchdog", "bark"], 2, "bark"),
        (&["--kernel", "builtin:off", "--cmdline", &"x".repeat(4096)], 2, "shorten"),
    ];
    for (arguments, code, words) in cases {
        let output = boot(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(words), "{arguments:?}: {stderr}");
    }
}

#[test]
fn boot_keeps_console_and_events_apart() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let console = directory.path().join("console");
    let output = boot(&["--kernel", "builtin:off", "--json", "--serial", console.to_str().expect("plain")]);
    let events: Vec<serde_json::Value> = String::from_utf8(output.stdout)
        .expect("JSON is UTF-8")
        .lines()
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
        .collect();
    let names: Vec<_> = events.iter().map(|event| event["event"].as_str().expect("its name")).collect();
    let due = ["guest_starting", "guest_first_instruction", "guest_ready", "guest_stopped", "memory_released"];
    assert_eq!(names, due);
    assert!(console.exists());
}

#[test]
fn boot_goes_on_after_an_expiry_or_a_reset_where_it_is_told_to() {
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("hang", &["--watchdog", "reset"], &["guest_ready", "guest_fault", "guest_starting", "guest_ready"]),
        ("reset", &[], &["guest_ready", "guest_fault", "guest_starting", "guest_ready"]),
        ("hang", &["--watchdog", "nmi"], &["guest_ready", "guest_fault", "NMI"]),
        ("hang", &["--watchdog", "none"], &["guest_ready", "guest_fault", "it goes on"]),
        ("hang", &["--watchdog", "pause"], &["guest_ready", "guest_fault", "it stands still"]),
    ];
    for (guest, arguments, due) in cases {
        let mut child = Child::boot(&["--kernel", &format!("builtin:{guest}"), "--json"], arguments);
        for words in *due {
            child.says(words);
        }
        assert!(child.runs(), "{guest} {arguments:?} is still there");
    }
}

// ---- the machine: every way to end, as a report ----

#[test]
fn each_test_verb_ends_the_guest_its_own_way() {
    type Check = fn(&Report) -> bool;
    let verbs: [(&str, Check); 6] = [
        ("hang", |report| matches!(report, Report::WatchdogExpired { .. })),
        ("triple-fault", |report| matches!(report, Report::TripleFault { vcpu: 0 })),
        ("panic", |report| matches!(report, Report::Panicked { events: 1 })),
        ("reset", |report| matches!(report, Report::Reset { kind: ResetKind::I8042 })),
        ("off", |report| matches!(report, Report::PowerOff)),
        ("wild", |report| matches!(report, Report::KvmError { rip: 0xd000_0000, .. })),
    ];
    for (verb, expected) in verbs {
        let run = run("pet", "test=1 wd_ms=40").start();
        run.until("READY", |run| run.ready());
        run.say(&format!("TEST {verb}\n"));
        run.until(verb, |run| run.reported(expected));
        assert_eq!(run.stop(), MEMORY_BYTES);
    }
}

#[test]
fn test_verbs_need_permission_and_shutdown_does_not() {
    let run = run("pet", "").start();
    run.until("READY", |run| run.ready());
    run.say("TEST panic\nTEST off\nnonsense\n\n");
    run.say(&format!("{}\nROLE act 12x\nSHUTDOWNNOW\nROLE sby 7\r\n", "A".repeat(500)));
    run.until("the role's OK", |run| run.com2().ends_with("OK\n"));
    assert_eq!(run.com2(), "READY\nOK\n", "one role was well formed");
    run.say("SHUTDOWN\n");
    run.until("power-off", |run| run.reported(|report| matches!(report, Report::PowerOff)));
    assert!(!run.reported(|report| matches!(report, Report::Panicked { .. })));
}

#[test]
fn mute_never_says_ready_and_delay_delays_it() {
    let mute = run("mute", "").start();
    let late = run("pet", "delay_ms=300").start();
    let began = Instant::now();
    late.until("READY", |run| run.ready());
    assert!(began.elapsed() >= Duration::from_millis(290), "{:?}", began.elapsed());
    mute.until("a pet", |run| run.reported(|report| matches!(report, Report::FirstPet)));
    assert_eq!(mute.com2(), "");
    assert!(!mute.reported(|report| matches!(report, Report::WatchdogPretimeout { .. })));
}

#[test]
fn two_processors_start_and_stop() {
    let mut prepared = run("pet", "");
    prepared.config.vcpus = 2;
    let run = prepared.start();
    run.until("READY", |run| run.ready());
    run.machine().pause();
    run.machine().start();
    assert_eq!(run.stop(), MEMORY_BYTES);
}

#[test]
fn stop_is_clean_in_every_state() {
    // Never started.
    run("pet", "").build().stop();
    // Before its first instruction, most likely.
    run("pet", "").start().stop();
    // Paused, ended, hung, reset.
    let paused = run("pet", "").start();
    paused.machine().pause();
    paused.stop();
    let ended = run("off", "pets=1").start();
    ended.until("power-off", |run| run.reported(|report| matches!(report, Report::PowerOff)));
    ended.machine().pause();
    ended.stop();
    let hung = run("hang", "pets=1 wd_ms=20").start();
    hung.until("expiry", |run| run.reported(|report| matches!(report, Report::WatchdogExpired { .. })));
    hung.stop();
    // Dropped without a word.
    drop(run("pet", "").start());
}

#[test]
fn a_reset_machine_runs_again_and_the_watchdog_remembers() {
    let mut run = run("pet", "test=1 wd_ms=40").start();
    run.until("READY", |run| run.ready());
    run.say("TEST hang\n");
    run.until("expiry", |run| run.reported(|report| matches!(report, Report::WatchdogExpired { .. })));
    for starts in 2..4 {
        run.reset();
        run.until("READY again", |run| run.com2().matches("READY").count() == starts);
    }
    assert_eq!(run.count(|report| matches!(report, Report::FirstInstruction)), 3);
    run.say("SHUTDOWN\n");
    run.until("power-off", |run| run.reported(|report| matches!(report, Report::PowerOff)));
}

#[test]
fn an_nmi_reaches_the_guest() {
    let run = run("pet", "").start();
    run.until("READY", |run| run.ready());
    run.machine().inject_nmi();
    run.until("its word", |run| run.console() == "NMI\n");
    run.say("ROLE sby 1\n");
    run.until("it goes on", |run| run.com2() == "READY\nOK\n");
}

// ---- the watchdog's time ----

#[test]
fn the_watchdog_fires_on_time() {
    let run = run("hang", "wd_ms=50 pets=2").start();
    run.until("expiry", |run| run.reported(|report| matches!(report, Report::WatchdogExpired { .. })));
    let reports = run.reports();
    let due =
        |wanted: fn(&Report) -> Option<_>| reports.iter().find_map(|(_, report)| wanted(report)).expect("it came");
    let first = due(|report| match report {
        Report::WatchdogPretimeout { due_at, seen_at, .. } => Some((*due_at, *seen_at)),
        _ => None,
    });
    let second = due(|report| match report {
        Report::WatchdogExpired { due_at, seen_at, .. } => Some((*due_at, *seen_at)),
        _ => None,
    });
    // 50 counts of 983,040 ns each.
    assert_eq!(second.0.since(first.0), Duration::from_nanos(50 * 983_040));
    for (due_at, seen_at) in [first, second] {
        assert!(seen_at >= due_at);
        // The 2 ms of an idle machine are measured by tools/bench_watchdog; this machine may be busy.
        assert!(seen_at.since(due_at) < Duration::from_secs(1), "{:?} late", seen_at.since(due_at));
    }
}

#[test]
fn a_paused_machine_has_no_time() {
    let run = run("pet", "wd_ms=100").start();
    run.until("READY", |run| run.ready());
    run.until("a pet", |run| run.reported(|report| matches!(report, Report::FirstPet)));
    for _ in 0..3 {
        run.machine().pause();
        // Longer than both stages together.
        pass_time(Duration::from_millis(500));
        run.machine().start();
        pass_time(Duration::from_millis(50));
    }
    run.say("ROLE sby 1\n");
    run.until("it goes on", |run| run.com2() == "READY\nOK\n");
    let early = |report: &Report| matches!(report, Report::WatchdogExpired { .. });
    assert!(!run.reported(early), "{:?}", run.reports());
}

#[test]
fn the_guests_own_clock_stands_still_too() {
    let ram = Ram::new(MEMORY_BYTES).expect("16 MiB");
    let vm = Vm::new(1, &ram).expect("this test needs KVM, as root or in its group");
    let pace = Pace::new(Arc::new(LeaseGate::always_open()), Sink::new(|_, _| {})).expect("an event descriptor");
    let clock = || Duration::from_nanos(vm.fd.get_clock().expect("KVM has its clock").clock);
    let mut rounds = Vec::new();
    pace.begin(1, vm.fd.clone());
    std::thread::scope(|scope| {
        // A processor that does nothing but ask whether to run.
        scope.spawn(|| {
            while pace.turn() != Turn::Stop {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        pace.resume();
        for _ in 0..3 {
            let (began, before) = (Instant::now(), clock());
            pace.pause();
            let stood = Instant::now();
            pass_time(Duration::from_millis(100));
            let stood = stood.elapsed();
            pace.resume();
            let after = clock();
            rounds.push((before, after, began.elapsed() - stood));
        }
        pace.stop();
    });
    for (before, after, ran) in rounds {
        assert!(after >= before, "{before:?} to {after:?}: it never goes back");
        assert!(after - before <= ran + Duration::from_millis(50), "{:?} in {ran:?}", after - before);
    }
}

#[test]
fn a_petting_guest_costs_at_most_one_wake_up_a_stage() {
    const STAGE: Duration = Duration::from_nanos(101 * 983_040);
    let run = run("pet", "wd_ms=100").start();
    run.until("READY", |run| run.ready());
    let began = Instant::now();
    let before = run.machine().ticker_wakeups();
    pass_time(STAGE * 20);
    let wakeups = run.machine().ticker_wakeups() - before;
    let stages = began.elapsed().as_nanos() / STAGE.as_nanos();
    assert!(u128::from(wakeups) <= stages + 1, "{wakeups} wake-ups in {stages} stages");
}

// ---- count and its image ----

#[test]
fn count_writes_what_it_prints_and_goes_on_where_it_was() {
    let image = Image::new(128);
    let mut last = 0;
    for (grant, member) in [(7, 1), (9, 1), (1 << 40, 1)] {
        let run = run("count", &format!("member={member}")).with_disk(image.path()).start();
        run.until("READY", |run| run.ready());
        run.say(&format!("ROLE act {grant}\n"));
        run.until("60 records", |run| run.counted().len() >= 60);
        run.stop_and(|run| {
            let counted = run.counted();
            assert_eq!(counted[0], last + 1, "it goes on");
            assert!(counted.windows(2).all(|pair| pair[1] == pair[0] + 1), "{counted:?}");
            last = *counted.last().expect("sixty");
        });
        let found = image.highest().expect("records");
        // The one that was in flight at the stop may be there too.
        assert!(found.n == last || found.n == last + 1, "found {found:?}, acknowledged {last}");
        assert_eq!((found.grant, found.member), (grant, member));
        last = found.n;
        image.check_monotonic();
    }
    assert!(last > 128, "the image has wrapped");
}

#[test]
fn count_finds_the_highest_record_whatever_else_is_there() {
    let image = Image::new(3000);
    // A torn one, one with a wrong check word, one of another kind, and lone high ones out of order.
    image.write(5_000_000, 3, 0);
    image.spoil(5_000_000, 24);
    image.write(4_000_000, 3, 0);
    image.spoil(4_000_000, 0);
    image.write(77, 2, 0);
    image.write(1_000_002, 2, 0);
    image.write(900_000, 2, 0);
    let run = run("count", "").with_disk(image.path()).start();
    run.until("READY", |run| run.ready());
    run.say("ROLE act 4\n");
    run.until("a record", |run| !run.counted().is_empty());
    assert_eq!(run.counted()[0], 1_000_003);
}

#[test]
fn a_torn_last_record_is_written_again() {
    let image = Image::new(64);
    for n in 1..=100 {
        image.write(n, 2, 0);
    }
    image.spoil(100, 16);
    let run = run("count", "").with_disk(image.path()).start();
    run.until("READY", |run| run.ready());
    run.say("ROLE act 3\n");
    run.until("a record", |run| !run.counted().is_empty());
    assert_eq!(run.counted()[0], 100);
}

#[test]
fn standing_by_it_writes_nothing() {
    let image = Image::new(64);
    let run = run("count", "").with_disk(image.path()).start();
    run.until("READY", |run| run.ready());
    run.say("ROLE sby 3\n");
    run.until("OK", |run| run.com2().ends_with("OK\n"));
    run.say("ROLE act 4\n");
    run.until("records", |run| run.counted().len() > 3);
    run.say("ROLE sby 5\n");
    run.until("OK", |run| run.com2().matches("OK").count() == 3);
    pass_time(Duration::from_millis(50));
    let counted = run.counted().len();
    pass_time(Duration::from_millis(200));
    assert_eq!(run.counted().len(), counted);
    assert_eq!(image.highest().expect("records").grant, 4);
}

#[test]
fn a_read_only_disk_is_not_written() {
    let image = Image::new(64);
    image.write(9, 1, 0);
    let before = image.bytes();
    let run = run("count", "").with_disk_read_only(image.path()).start();
    run.until("READY", |run| run.ready());
    run.say("ROLE act 4\n");
    run.until("OK", |run| run.com2().ends_with("OK\n"));
    pass_time(Duration::from_millis(100));
    run.stop_and(|run| assert_eq!(run.counted(), Vec::<u64>::new()));
    assert_eq!(image.bytes(), before);
    assert_eq!(before.len() % SECTOR_BYTES, 0);
}

// ---- the gate ----

#[test]
fn a_shut_gate_holds_writes_and_the_machine_and_time() {
    let image = Image::new(64);
    let run = run("count", "wd_ms=60").with_disk(image.path()).gated(5).start();
    run.open_for(Duration::from_secs(3600));
    run.until("READY", |run| run.ready());
    run.say("ROLE act 5\n");
    run.until("records", |run| run.counted().len() > 3);
    // The lease is not renewed: time alone shuts the gate.
    run.open_for(Duration::from_millis(20));
    run.until("held", |run| run.reported(|report| matches!(report, Report::Held)));
    pass_time(Duration::from_millis(50));
    let counted = run.counted();
    let found = image.highest();
    pass_time(Duration::from_millis(500));
    assert_eq!(run.counted(), counted, "nothing is acknowledged");
    assert_eq!(image.highest(), found, "nothing is written");
    assert!(matches!(run.gate().stamps().least_left, Some(Left::Before(_))), "{:?}", run.gate().stamps());
    // Renewed under the same grant: everything goes on, and the watchdog has not noticed.
    run.open_for(Duration::from_secs(3600));
    run.until("released", |run| run.reported(|report| matches!(report, Report::Released)));
    run.until("more records", |run| run.counted().len() > counted.len() + 3);
    let all = run.counted();
    assert!(all.windows(2).all(|pair| pair[1] == pair[0] + 1), "no record was lost or doubled: {all:?}");
    assert!(!run.reported(|report| matches!(report, Report::WatchdogExpired { .. })));
}

#[test]
fn another_grant_does_not_let_it_go_on_and_it_can_be_stopped_held() {
    let image = Image::new(64);
    let run = run("count", "").with_disk(image.path()).gated(5).start();
    run.open_for(Duration::from_secs(3600));
    run.until("READY", |run| run.ready());
    run.say("ROLE act 5\n");
    run.until("records", |run| run.counted().len() > 3);
    run.open_for(Duration::from_millis(10));
    run.until("held", |run| run.reported(|report| matches!(report, Report::Held)));
    run.gate().open_until(Right::Member, 6, clock::mono() + PATIENCE);
    pass_time(Duration::from_millis(200));
    assert!(!run.reported(|report| matches!(report, Report::Released)));
    let found = image.highest();
    run.stop();
    assert_eq!(image.highest(), found);
}

#[test]
fn a_hung_guest_is_held_by_its_own_timer() {
    let run = run("hang", "pets=1 wd_ms=1000").gated(5).start();
    run.open_for(Duration::from_millis(300));
    run.until("held", |run| run.reported(|report| matches!(report, Report::Held)));
    pass_time(Duration::from_millis(2500));
    assert!(!run.reported(|report| matches!(report, Report::WatchdogExpired { .. })), "its time stands still");
    run.open_for(Duration::from_secs(3600));
    run.until("expiry", |run| run.reported(|report| matches!(report, Report::WatchdogExpired { .. })));
}
