//! What an operator does: look, ask why, switch over, stop, clear; and what the process does on signals.

use std::process::{Command, Stdio};
use std::time::Duration;

use duplexvm::clock;
use duplexvm::demo::Options;
use duplexvm::demo::place::Place;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::harness::{PROGRAM, alone, command, said, soon, status, told, with_pair};

#[test]
fn a_pair_is_looked_at_and_acted_on() {
    with_pair(&Options::default(), |story, setup| {
        let before = story.picture.standing().expect("a pair");
        let (a, b) = (before.act_node.clone(), before.sby_node.clone().expect("an SBY"));
        let act = status(setup, &a);
        assert_eq!((&act["role"], &act["gate"], &act["guest"]), (&json!("act"), &json!("time-fenced"), &json!("up")));
        assert!(act["lease_left_ms"].as_u64() > Some(0), "{act}");
        assert_eq!(status(setup, "x")["role"], json!("spare"));
        // Asked at a node that does not decide: the ACT's node does it. The spare refuses until it has seen the SBY up.
        let asked =
            story.until(soon(), "it is done", |_| command(setup, &["switchover", "--node", "x"]).status.success());
        asked.unwrap_or_else(|error| panic!("{error}\n{}", told(story, setup)));
        let (old, new) = (a.clone(), b.clone());
        let switched = story.until(soon(), "roles are exchanged", move |story| {
            story.picture.standing().is_some_and(|now| now.act_node == new && now.sby_node.as_deref() == Some(&old))
        });
        switched.unwrap_or_else(|error| panic!("{error}\n{}", told(story, setup)));
        let why = said(setup, &["why"]);
        assert!(why.lines().count() >= 2 && why.lines().last().is_some_and(|line| line.contains("role")), "{why}");
        said(setup, &["quarantine", "x", "--node", &b]);
        let quarantined = story.until(soon(), "x is suspect", |story| story.picture.quarantined() == ["x"]);
        quarantined.unwrap_or_else(|error| panic!("{error}\n{}", told(story, setup)));
        said(setup, &["clear", "x", "--node", &b]);
        let cleared = story.until(soon(), "x is sound", |story| story.picture.quarantined().is_empty());
        cleared.unwrap_or_else(|error| panic!("{error}\n{}", told(story, setup)));
        let refused = command(setup, &["clear", "x", "--node", &b]);
        assert_eq!(refused.status.code(), Some(1));
        let no_such = command(setup, &["clear", "y", "--node", &b]);
        assert!(String::from_utf8_lossy(&no_such.stderr).contains("a, b, x"));
    });
}

#[test]
fn a_node_told_to_stop_hands_over_and_the_dead_are_read_from_the_disk() {
    with_pair(&Options::default(), |story, setup| {
        let before = story.picture.standing().expect("a pair");
        let (a, b) = (before.act_node.clone(), before.sby_node.clone().expect("an SBY"));
        story.nodes.give_up(&a);
        story.nodes.signal(&a, Signal::SIGTERM).expect("a process");
        let (old, new) = (a.clone(), b.clone());
        let moved = story.until(soon(), "the SBY serves, x stands by, the node is gone", move |story| {
            let stands = story.picture.standing();
            !story.nodes.runs(&old) && stands.is_some_and(|s| s.act_node == new && s.sby_node.as_deref() == Some("x"))
        });
        moved.unwrap_or_else(|error| panic!("{error}\n{}", told(story, setup)));
        assert!(story.picture.lines.iter().all(|line| line.event != "guest_fault"), "a stop is no fault");
        // The stopped node's events are on the state disk: any node's operator reads them.
        let events = said(setup, &["events", "--json"]);
        let stopped = events.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        assert!(stopped.into_iter().any(|e| e["node"] == json!(a) && e["event"] == json!("node_stopped")), "{events}");
        said(setup, &["stop", "--pair"]);
        let ended = story.until(soon(), "all nodes end", |story| ["b", "x"].iter().all(|node| !story.nodes.runs(node)));
        ended.unwrap_or_else(|error| panic!("{error}\n{}", told(story, setup)));
        let status: Value = serde_json::from_str(&said(setup, &["status", "--json"])).expect("JSON");
        assert_eq!((&status["node"], &status["source"]), (&Value::Null, &json!("state area")));
        assert!(status["nodes"].as_array().is_some_and(|nodes| nodes.iter().all(|n| n["alive"] == json!(false))));
        let nobody = command(setup, &["switchover"]);
        assert_eq!(nobody.status.code(), Some(1));
    });
}

#[test]
fn a_second_process_of_a_node_is_refused() {
    with_pair(&Options::default(), |_, setup| {
        let mut second = Command::new(PROGRAM);
        second.args(["run", "--node", "a", "--config"]).arg(setup.config()).arg("--lock-dir").arg(setup.dir());
        let output = second.output().expect("it runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && error.contains("runs on this host already"), "{error}");
    });
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    let _alone = alone();
    let place = Place::find(None).expect("a directory");
    let mut demo = Command::new(PROGRAM);
    demo.arg("demo").arg("--keep").arg(place.path()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut demo = demo.spawn().expect("the demo runs");
    let control = place.path().join("a.sock");
    let deadline = soon();
    while !control.exists() {
        assert!(demo.try_wait().expect("a child").is_none(), "it ended by itself");
        if clock::mono().reached_by_both(deadline) {
            demo.kill().and_then(|()| demo.wait()).expect("a child");
            panic!("no node has come up");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!of_pair(place.path()).is_empty());
    kill(Pid::from_raw(demo.id().cast_signed()), Signal::SIGINT).expect("a process");
    let status = demo.wait().expect("a child");
    assert_eq!(status.code(), Some(1));
    assert_eq!(of_pair(place.path()), Vec::<i32>::new());
}

/// The processes whose command line names `dir`.
fn of_pair(dir: &std::path::Path) -> Vec<i32> {
    let dir = dir.to_str().expect("a plain path");
    let pids =
        std::fs::read_dir("/proc").expect("/proc").filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let names_dir = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&format!("{dir}/pair.toml"))
    };
    pids.filter(names_dir).collect()
}
