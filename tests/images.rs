//! `duplexvm image` as its operator meets it: what it prints, how it ends, and what a kill leaves.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};

use duplexvm::demo::place::Place;
use duplexvm::storage::image::Stage;

fn image(arguments: &[&str], dir: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_duplexvm"));
    command.arg("image").args(arguments).current_dir(dir).output().expect("the program that is tested runs")
}

/// Its exit code and its one line, of stdout if that is 0, else of stderr.
fn said(arguments: &[&str], dir: &Path) -> (Option<i32>, String) {
    let output = image(arguments, dir);
    let code = output.status.code();
    let line = String::from_utf8(if code == Some(0) { output.stdout } else { output.stderr }).expect("text");
    assert!(line.lines().count() <= 1, "{line}");
    (code, line.trim_end().to_owned())
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().expect("text")).collect();
    names.sort();
    names
}

#[test]
fn images_are_made_measured_and_compared() {
    let place = Place::find(None).expect("a directory that can do O_DIRECT");
    let dir = place.path();
    assert_eq!(said(&["create", "a", "1MiB"], dir), (Some(0), String::new()));
    let (code, sizes) = said(&["sizes", "a", "--json"], dir);
    let sizes: serde_json::Value = serde_json::from_str(&sizes).expect("JSON");
    assert_eq!((code, sizes["bytes"].as_u64(), sizes["path"].as_str()), (Some(0), Some(1 << 20), Some("a")));
    let hash = blake3::hash(&[0; 1 << 20]).to_hex().to_string();
    assert_eq!(said(&["check", "a"], dir), (Some(0), format!("{hash}  a")));
    assert_eq!(said(&["check", "a", "--blake3", &hash.to_uppercase()], dir).0, Some(0));
    let (code, wrong) = said(&["check", "a", "--blake3", &"0".repeat(64)], dir);
    assert!(code == Some(1) && wrong.contains(&hash), "{wrong}");
    fs::write(dir.join("odd"), [1; 1000]).expect("written");
    let (code, added) = said(&["import", "odd", "b"], dir);
    assert!(code == Some(0) && added.contains("3096 zeros"), "{added}");
    assert_eq!(fs::read(dir.join("b")).expect("there")[999..1001], [1, 0]);
    let there = names(dir);
    for (arguments, due, part) in [
        (&["create", "a", "1MiB"][..], 1, "exists"),
        (&["create", "c", "1000B"], 2, "20GiB"),
        (&["create", "c", "1KiB"], 2, "multiple of 4096"),
        (&["create", "c", "4000000TiB"], 1, "no room"),
        (&["create", "none/c", "1MiB"], 1, "cannot be made"),
        (&["create", "/proc/c", "1MiB"], 1, "cannot be made"),
        (&["import", "none", "c"], 1, "There is no disk image"),
        (&["import", ".", "c"], 2, "neither"),
        (&["import", "a", "b"], 1, "exists"),
        (&["import", "a", "c", "--format", "floppy"], 2, "qcow2"),
        (&["check", "odd"], 2, "multiple of 4096"),
        (&["check", "a", "--blake3", "12"], 2, "64"),
        (&["sizes", "a", "none"], 1, "There is no disk image"),
        (&["sizes"], 2, "PATHS"),
        (&["fly"], 2, "fly"),
    ] {
        let (code, line) = said(arguments, dir);
        assert!(code == Some(due) && line.contains(part), "{arguments:?}: {code:?} {line}");
    }
    assert_eq!(names(dir), there);
}

#[test]
fn whenever_it_is_killed_the_new_image_is_whole_or_not_there() {
    let place = Place::find(None).expect("a directory that can do O_DIRECT");
    let dir = place.path();
    let source = File::create(dir.join("source")).expect("made");
    let piece: Vec<u8> = (0..1 << 20).map(|n: u32| (n / 251) as u8).collect();
    for at in [0, 3, 9] {
        source.write_all_at(&piece, at << 20).expect("written");
    }
    let whole = fs::read(dir.join("source")).expect("there");
    for (stage, name) in Stage::ALL {
        let output = image(&["import", "source", "target", "--test-kill-at", name], dir);
        assert_eq!(output.status.signal(), Some(9), "{name} was not reached: {output:?}");
        if stage == Stage::Linked {
            assert!(fs::read(dir.join("target")).expect("there") == whole);
            fs::remove_file(dir.join("target")).expect("there");
        }
        assert_eq!(names(dir), ["source"], "{name}");
        // Started again, it is as if nothing had been.
        assert_eq!(said(&["import", "source", "target"], dir), (Some(0), String::new()));
        assert!(fs::read(dir.join("target")).expect("there") == whole);
        fs::remove_file(dir.join("target")).expect("there");
    }
}
