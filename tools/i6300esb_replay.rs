//! Replays access sequences against the i6300esb model: `i6300esb_replay < vectors.jsonl`.
//!
//! Each line is one sequence: `{"id", "action", "ops": [..], "expect": [..]}`, one expectation an op.
//! A sequence begins with a device at power-on at time 0, BAR 0 at 0xfebf0000 and memory decoding on.
//! Every op whose outcome differs from what is expected is printed, then `N passed, M failed` by
//! sequences. Exit codes: 0 all passed, 1 some failed, 2 the input is no list of sequences.
//!
//! The outcome of an op is written as an expectation and compared whole, so that a value, time or
//! event too many is found as well as a wrong or missing one.

use std::io::{self, BufRead, Write, stdin, stdout};
use std::process::ExitCode;

use duplexvm::devices::GuestTime;
use duplexvm::devices::i6300esb::{I6300esb, Verdict};
use serde::Deserialize;
use serde_json::{Value, json};

const BAR: u32 = 0xfebf_0000;
const MEMORY_DECODING: u16 = 0x0002;
/// Bits 1:0 of the config register: what the end of stage 1 raises.
const INTERRUPT_TYPE: u16 = 0b11;
const SMI: u16 = 0b10;

/// One line of the input.
#[derive(Deserialize)]
struct Sequence {
    id: String,
    action: Action,
    ops: Vec<Op>,
    expect: Vec<Value>,
}

/// What the machine does when the watchdog fires; it also decides what a sequence lists.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Action {
    Debug,
    Reset,
    None,
    Pause,
    Poweroff,
    Shutdown,
    InjectNmi,
}

/// One access, a step of time, or a system reset.
#[derive(Deserialize, Debug)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
enum Op {
    CfgR { off: u8, w: Width },
    CfgW { off: u8, w: Width, v: u64 },
    MmioR { off: u16, w: Width },
    MmioW { off: u16, w: Width, v: u64 },
    Step { ns: u64 },
    Reset {},
}

/// Bytes of an access.
#[derive(Deserialize, Debug, Clone, Copy)]
#[serde(try_from = "u64")]
struct Width(usize);

impl TryFrom<u64> for Width {
    type Error = String;
    fn try_from(bytes: u64) -> Result<Width, String> {
        match bytes {
            1..=8 => Ok(Width(bytes as usize)),
            _ => Err(format!("An access has 1 to 8 bytes, not {bytes}")),
        }
    }
}

/// A device, its clock, and what fell due during the present op.
struct Bench {
    chip: I6300esb,
    now: GuestTime,
    action: Action,
    events: Vec<Value>,
}

impl Bench {
    fn new(action: Action) -> Bench {
        let mut bench = Bench { chip: I6300esb::new(), now: GuestTime::ZERO, action, events: Vec::new() };
        bench.chip.config_write(bench.now, 0x10, &BAR.to_le_bytes());
        bench.chip.config_write(bench.now, 0x04, &MEMORY_DECODING.to_le_bytes());
        bench
    }

    /// Carries out one op and says what came of it, in the form of an expectation. Of events it lists
    /// all, but few more than are expected: some timers have millions of them.
    fn outcome(&mut self, op: &Op, expected_events: usize) -> Result<Value, String> {
        let value = match *op {
            Op::CfgR { off, w } => Some(read(w, |data| self.chip.config_read(usize::from(off), data))),
            Op::MmioR { off, w } => Some(read(w, |data| {
                if self.mapped() {
                    self.chip.read(u64::from(off), data);
                }
            })),
            Op::CfgW { off, w, v } => {
                self.chip.config_write(self.now, usize::from(off), &v.to_le_bytes()[..w.0]);
                None
            }
            Op::MmioW { off, w, v } => {
                if self.mapped() {
                    self.chip.write(self.now, u64::from(off), &v.to_le_bytes()[..w.0]);
                }
                None
            }
            Op::Step { ns } => {
                let until = self.now.ns().checked_add(ns).ok_or("The steps go past the end of time, 2^64 ns")?;
                self.step(GuestTime::from_ns(until), expected_events);
                None
            }
            Op::Reset {} => {
                self.chip.reset();
                None
            }
        };
        let mut outcome = json!({ "t": self.now.ns() });
        if let Some(value) = value {
            outcome["v"] = json!(value);
        }
        if !self.events.is_empty() {
            outcome["ev"] = Value::Array(std::mem::take(&mut self.events));
        }
        Ok(outcome)
    }

    /// Time goes on to `until`; what falls due on the way happens at its own time.
    fn step(&mut self, until: GuestTime, expected_events: usize) {
        while !self.is_silent()
            && self.events.len() <= expected_events
            && let Some(at) = self.chip.verdict_at().filter(|at| *at <= until)
        {
            self.tick(at);
        }
        self.tick(until);
        self.now = until;
    }

    fn tick(&mut self, at: GuestTime) {
        for verdict in self.chip.tick(at) {
            self.on_verdict(verdict);
        }
    }

    fn on_verdict(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Pretimeout { evidence, .. } if self.is_silent() || !evidence.interrupts() => {}
            Verdict::Pretimeout { due_at, evidence } => {
                let smi = evidence.config & INTERRUPT_TYPE == SMI;
                self.happened(due_at, if smi { "stage1_smi" } else { "stage1_irq" });
            }
            Verdict::Expired { due_at, .. } => {
                self.happened(due_at, "watchdog");
                if self.action == Action::Reset {
                    self.chip.reset();
                    self.happened(due_at, "reset");
                }
            }
        }
    }

    /// With these actions nothing is listed of stage 1.
    fn is_silent(&self) -> bool {
        matches!(self.action, Action::Reset | Action::None)
    }

    fn happened(&mut self, at: GuestTime, event: &str) {
        self.events.push(json!({ "t": at.ns(), "e": event }));
    }

    /// Whether memory accesses reach BAR 0. Offsets count from where it is now.
    fn mapped(&self) -> bool {
        self.chip.config().bar_address(0).is_some()
    }
}

/// A read of `w` bytes; what nobody answers is 0 here, as on the machine the sequences come from.
fn read(w: Width, access: impl FnOnce(&mut [u8])) -> u64 {
    let mut data = [0; 8];
    access(&mut data[..w.0]);
    u64::from_le_bytes(data)
}

/// An expectation in the one form that outcomes have: no events is no `ev`.
fn normal(expected: &Value) -> Value {
    let mut expected = expected.clone();
    if let Some(fields) = expected.as_object_mut()
        && fields.get("ev").is_some_and(|ev| ev.as_array().is_some_and(Vec::is_empty))
    {
        fields.remove("ev");
    }
    expected
}

/// How many events an expectation lists.
fn events(expected: Option<&Value>) -> usize {
    expected.and_then(|expected| expected.get("ev")?.as_array()).map_or(0, Vec::len)
}

/// Where one op's outcome is not what is expected, as a line to print.
fn difference(index: usize, op: &Op, expected: Option<&Value>, got: &Value) -> Option<String> {
    match expected.map(normal) {
        Some(expected) if expected == *got => None,
        Some(expected) => Some(format!("op {index} ({op:?}): expected {expected}, got {got}")),
        None => Some(format!("op {index} ({op:?}): expected nothing, no expectation is left; got {got}")),
    }
}

/// Replays one sequence and says where it differs.
fn replay(sequence: &Sequence) -> Result<Vec<String>, String> {
    let mut bench = Bench::new(sequence.action);
    let mut differences = Vec::new();
    for (index, op) in sequence.ops.iter().enumerate() {
        let expected = sequence.expect.get(index);
        let got = bench.outcome(op, events(expected)).map_err(|error| format!("op {index}: {error}"))?;
        differences.extend(difference(index, op, expected, &got));
    }
    for (index, expected) in sequence.expect.iter().enumerate().skip(sequence.ops.len()) {
        differences.push(format!("op {index}: expected {expected}, but there is no such op; got nothing"));
    }
    Ok(differences)
}

/// Why the input cannot be replayed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("Line {line} is no sequence: {why}")]
    Line { line: usize, why: String },
    #[error("There is no sequence on standard input; give it a file: i6300esb_replay < vectors.jsonl")]
    Empty,
    #[error("The result cannot be written: {0}")]
    Output(#[from] io::Error),
}

/// A parser's complaint by column only: it was given one line, and calls that line 1.
fn in_column(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    format!("{what}, column {}", error.column())
}

/// Replays a list of sequences; true when all passed.
fn run(input: impl BufRead, mut output: impl Write) -> Result<bool, Failure> {
    let (mut passed, mut failed) = (0, 0);
    for (text, line) in input.lines().zip(1..) {
        let unfit = |why: String| Failure::Line { line, why };
        let text = text.map_err(|error| unfit(error.to_string()))?;
        if text.trim().is_empty() {
            continue;
        }
        let sequence: Sequence = serde_json::from_str(&text).map_err(|error| unfit(in_column(&error)))?;
        let differences = replay(&sequence).map_err(unfit)?;
        for difference in &differences {
            writeln!(output, "{}: {difference}", sequence.id)?;
        }
        *if differences.is_empty() { &mut passed } else { &mut failed } += 1;
    }
    if passed + failed == 0 {
        return Err(Failure::Empty);
    }
    writeln!(output, "{passed} passed, {failed} failed")?;
    output.flush()?;
    Ok(failed == 0)
}

fn main() -> ExitCode {
    match run(stdin().lock(), stdout().lock()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VECTORS: &str = include_str!("../tests/data/i6300esb-vectors.jsonl");

    /// Replays `text`; what was printed, and whether all passed.
    fn replayed(text: &str) -> (String, bool) {
        let mut printed = Vec::new();
        let passed = run(text.as_bytes(), &mut printed).expect("the text is a list of sequences");
        (String::from_utf8(printed).expect("what is printed is text"), passed)
    }

    /// Every way to spoil the expectation of one op, in place.
    fn spoilt(expected: &Value) -> Vec<Value> {
        let set = |field: &str, value: Value| {
            let mut spoilt = expected.clone();
            spoilt[field] = value;
            spoilt
        };
        let event = json!({ "t": 1, "e": "watchdog" });
        let mut all = vec![set("t", json!(expected["t"].as_u64().expect("a time") + 1)), set("surplus", json!(0))];
        match expected.get("v").and_then(Value::as_u64) {
            Some(v) => all.extend([set("v", json!(v ^ 1)), set("v", Value::Null), set("v", json!(v.to_string()))]),
            None => all.push(set("v", json!(0))),
        }
        let Some(events) = expected.get("ev").and_then(Value::as_array) else {
            all.push(set("ev", json!([event])));
            return all;
        };
        for index in 0..events.len() {
            let change = |change: &dyn Fn(&mut Vec<Value>)| {
                let mut events = events.clone();
                change(&mut events);
                set("ev", Value::Array(events))
            };
            let time = events[index]["t"].as_u64().expect("a time");
            all.push(change(&|events| _ = events.remove(index)));
            all.push(change(&|events| events.insert(index, event.clone())));
            all.push(change(&|events| events[index]["t"] = json!(time - 1)));
            all.push(change(&|events| events[index]["e"] = json!("reset")));
            all.push(change(&|events| events.push(events[index].clone())));
        }
        all
    }

    #[test]
    fn the_fifty_sequences_pass() {
        assert_eq!(replayed(VECTORS), ("50 passed, 0 failed\n".into(), true));
    }

    #[test]
    fn every_planted_mistake_is_found_where_it_is() {
        let mut planted = 0;
        for line in VECTORS.lines() {
            let good: Value = serde_json::from_str(line).expect("the vectors are JSON");
            let expect = good["expect"].as_array().expect("a list");
            for (index, expected) in expect.iter().enumerate() {
                for wrong in spoilt(expected) {
                    let mut bad = good.clone();
                    bad["expect"][index] = wrong;
                    let (printed, passed) = replayed(&bad.to_string());
                    assert!(!passed && printed.contains(&format!("op {index} ")), "{bad}\n{printed}");
                    planted += 1;
                }
            }
            for change in [Vec::pop, |expect: &mut Vec<Value>| Some(expect.remove(0))] {
                let mut bad = good.clone();
                change(bad["expect"].as_array_mut().expect("a list"));
                assert!(!replayed(&bad.to_string()).1, "{bad}");
            }
            let mut bad = good.clone();
            bad["expect"].as_array_mut().expect("a list").push(json!({ "t": 0 }));
            assert!(!replayed(&bad.to_string()).1, "{bad}");
        }
        assert!(planted > 1000, "{planted} mistakes");
    }

    #[test]
    fn mistakes_are_told_apart_by_sequence() {
        let mut lines: Vec<String> = VECTORS.lines().map(String::from).collect();
        lines[1] = lines[1].replacen("\"v\":1,", "\"v\":3,", 1);
        lines[7] = lines[7].replacen("\"e\":\"watchdog\"", "\"e\":\"stage1_irq\"", 1);
        let (printed, passed) = replayed(&lines.join("\n"));
        assert!(!passed);
        assert!(printed.contains("lock-only: op 2 ") && printed.contains("linux-60: op "), "{printed}");
        assert!(printed.ends_with("48 passed, 2 failed\n"), "{printed}");
    }

    #[test]
    fn the_reset_action_resets_the_machine_as_the_watchdog_fires() {
        let text = r#"{"id":"r","action":"reset","ops":[{"op":"cfg_w","off":96,"w":2,"v":4},{"op":"cfg_w","off":104,"w":1,"v":2},
            {"op":"step","ns":9999999999},{"op":"cfg_r","off":16,"w":4},{"op":"cfg_r","off":4,"w":2},{"op":"mmio_r","off":12,"w":2},
            {"op":"cfg_w","off":16,"w":4,"v":4273930240},{"op":"cfg_w","off":4,"w":2,"v":2},{"op":"mmio_r","off":12,"w":2}],
            "expect":[{"t":0},{"t":0},{"t":9999999999,"ev":[{"t":2013264000,"e":"watchdog"},{"t":2013264000,"e":"reset"}]},{"t":9999999999,"v":0},
            {"t":9999999999,"v":0},{"t":9999999999,"v":0},{"t":9999999999},{"t":9999999999},{"t":9999999999,"v":512}]}"#;
        assert_eq!(replayed(&text.replace('\n', " ")), ("1 passed, 0 failed\n".into(), true));
    }

    #[test]
    fn what_is_no_sequence_is_named_by_its_line() {
        for bad in [
            "{",
            "[]",
            "null",
            r#"{"id":"x","action":"debug","ops":[]}"#,
            r#"{"id":"x","action":"dance","ops":[],"expect":[]}"#,
            r#"{"id":"x","action":"debug","ops":[{"op":"jump"}],"expect":[{"t":0}]}"#,
            r#"{"id":"x","action":"debug","ops":[{"op":"step"}],"expect":[{"t":0}]}"#,
            r#"{"id":"x","action":"debug","ops":[{"op":"step","ns":-1}],"expect":[{"t":0}]}"#,
            r#"{"id":"x","action":"debug","ops":[{"op":"cfg_r","off":0,"w":0}],"expect":[{"t":0}]}"#,
            r#"{"id":"x","action":"debug","ops":[{"op":"mmio_w","off":0,"w":9,"v":0}],"expect":[{"t":0}]}"#,
            r#"{"id":"x","action":"debug","ops":[{"op":"cfg_r","off":256,"w":1}],"expect":[{"t":0}]}"#,
            r#"{"id":"x","action":"debug","ops":[{"op":"step","ns":18446744073709551615},{"op":"step","ns":1}],"expect":[]}"#,
        ] {
            let text = format!("{}\n\n{bad}\n", VECTORS.lines().next().expect("there are some"));
            let error = run(text.as_bytes(), Vec::new()).expect_err(bad).to_string();
            assert!(error.starts_with("Line 3 is no sequence: "), "{error}");
        }
        assert!(matches!(run(&b"\n"[..], Vec::new()), Err(Failure::Empty)));
    }
}
