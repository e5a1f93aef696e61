//! The watchdog's first stage as evidence: what the processors were doing, before the expiry and whatever comes of it.

use std::time::Duration;

use duplexvm::firmware;
use duplexvm::vmm::report::Report;

use super::run::{boot, run};

const INTERRUPTS: u64 = 1 << 9;

#[test]
fn a_hang_with_interrupts_off_is_witnessed_before_it_expires() {
    let mut plan = run("hang", "wd_ms=200 pets=2");
    plan.config.vcpus = 2;
    let run = plan.start();
    run.until("expiry", |run| run.reported(|report| matches!(report, Report::WatchdogExpired { .. })));
    let reports = run.reports();
    let at = |wanted: fn(&Report) -> bool| reports.iter().position(|(_, report)| wanted(report)).expect("it came");
    let first = at(|report| matches!(report, Report::WatchdogPretimeout { .. }));
    assert!(first < at(|report| matches!(report, Report::WatchdogExpired { .. })));
    let Report::WatchdogPretimeout { evidence, vcpus, .. } = &reports[first].1 else { unreachable!("it was found so") };
    assert!(evidence.interrupts() && evidence.pets == 2, "{evidence:?}");
    let [boot, other] = &vcpus[..] else { panic!("both processors answer: {vcpus:?}") };
    assert_eq!((boot.vcpu, boot.state, boot.rflags & INTERRUPTS), (0, "runs", 0), "{boot:?}");
    let offset = usize::try_from(boot.rip - firmware::LOAD_ADDRESS).expect("it spins in its own code");
    assert_eq!(boot.code, firmware::blob()[offset..offset + boot.code.len()], "the bytes there");
    assert!(!boot.code.is_empty());
    assert_eq!((other.vcpu, other.state), (1, "off"), "it was never started: {other:?}");
}

#[test]
fn both_stages_over_in_one_moment_are_told_in_order() {
    // One count each, at the first pet that does not come: the expiry must not overtake the evidence.
    for _ in 0..20 {
        let run = run("hang", "wd_ms=1 pets=1").start();
        run.until("expiry", |run| run.reported(|report| matches!(report, Report::WatchdogExpired { .. })));
        // Whether the processors answered in time is another matter: on a busy machine they may not get to run.
        let mut reports = run.reports().into_iter().map(|(_, report)| report);
        let pets: Vec<u64> = reports
            .by_ref()
            .take_while(|report| !matches!(report, Report::WatchdogExpired { .. }))
            .filter_map(|report| match report {
                Report::WatchdogPretimeout { evidence, .. } => Some(evidence.pets),
                _ => None,
            })
            .collect();
        // A guest that was kept from running for a moment pets between the stages: then there is evidence once more.
        assert!(!pets.is_empty() && pets.is_sorted_by(|earlier, later| earlier < later), "{pets:?}");
        let late =
            |report: &Report| matches!(report, Report::WatchdogPretimeout { .. } | Report::WatchdogExpired { .. });
        assert_eq!(reports.filter(late).count(), 0, "nothing comes after the expiry");
    }
}

#[test]
fn boot_prints_the_evidence_and_gives_an_nmi_where_it_is_told_to() {
    let guest = ["--kernel", "builtin:hang", "--cmdline", "wd_ms=300", "--json"];
    for (more, says) in [(&[][..], ""), (&["--pretimeout", "nmi"], "NMI\n")] {
        let output = boot(&[&guest[..], more].concat());
        assert_eq!(output.status.code(), Some(10), "{output:?}");
        let events: Vec<serde_json::Value> = String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(|line| serde_json::from_str(line).expect("each line is JSON"))
            .collect();
        let at = |name: &str| events.iter().position(|event| event["event"] == name).expect("it is logged");
        assert!(at("watchdog_pretimeout") < at("guest_fault"), "{events:?}");
        let told = &events[at("watchdog_pretimeout")];
        assert_eq!((told["interrupt"].as_bool(), told["pets"].as_u64()), (Some(true), Some(3)));
        assert!(told["unpetted_ms"].as_u64().is_some_and(|ms| Duration::from_millis(ms) > Duration::from_millis(250)));
        let vcpu = &told["vcpus"][0];
        assert_eq!((vcpu["vcpu"].as_u64(), vcpu["state"].as_str()), (Some(0), Some("runs")));
        assert!(vcpu["rip"].as_str().is_some_and(|rip| rip.starts_with("0x10")), "{vcpu}");
        assert_eq!(vcpu["code"].as_str().map(str::len), Some(32), "{vcpu}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.starts_with(says) && (says.is_empty() ^ stderr.contains("NMI")), "{stderr}");
    }
}
