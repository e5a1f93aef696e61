//! The members' network on this host: taps can be had, and those that the config names lead somewhere.

use std::fs::OpenOptions;
use std::io::ErrorKind;

use super::assumptions::Roots;
use super::report::{Level, Report};
use crate::config::Config;

const DEVICE: &str = "/dev/net/tun";

/// Looks at each tap of the config; nothing where there is none.
pub fn taps(config: &Config, roots: &Roots, report: &mut Report) {
    let mut names: Vec<&str> = config.members.iter().filter_map(|member| member.tap.as_deref()).collect();
    names.dedup();
    if names.is_empty() {
        return;
    }
    match OpenOptions::new().read(true).write(true).open(DEVICE) {
        Ok(_) => report.add(Level::Ok, DEVICE, "can be used"),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            report.add(Level::Missing, DEVICE, "is not there; load the tun module");
        }
        Err(error) => report.add(Level::Missing, DEVICE, format!("cannot be opened ({error}); run as root")),
    }
    for name in names {
        let (level, text) = tap(name, roots);
        report.add(level, format!("tap {name}"), text);
    }
}

fn tap(name: &str, roots: &Roots) -> (Level, String) {
    let interface = roots.sys.join("class/net").join(name);
    if !interface.exists() {
        let text = "is not there: each start makes it, as a port of nothing; make it, and make it a port of a bridge";
        return (Level::Note, text.to_owned());
    }
    if !interface.join("tun_flags").exists() {
        return (Level::Refuse, "is a network interface, but no tap; take another name".to_owned());
    }
    match std::fs::read_link(interface.join("master")) {
        Ok(master) => {
            let master = master.file_name().unwrap_or_default().to_string_lossy().into_owned();
            (Level::Ok, format!("is a port of {master}"))
        }
        Err(_) => (Level::Note, "is a port of no bridge: its guest reaches this host alone".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir_all, write};
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_a_tap_leads_to_is_said() {
        let directory = tempfile::tempdir().expect("a directory");
        let net = directory.path().join("class/net");
        for name in ["eth0", "alone", "port", "br0"] {
            create_dir_all(net.join(name)).expect("a directory");
        }
        for name in ["alone", "port"] {
            write(net.join(name).join("tun_flags"), "0x5002\n").expect("a file");
        }
        symlink("../br0", net.join("port/master")).expect("a link");
        let roots = Roots { sys: directory.path().to_owned(), proc: "/nowhere".into() };
        let level = |name: &str| tap(name, &roots).0;
        assert_eq!(tap("port", &roots), (Level::Ok, "is a port of br0".to_owned()));
        assert_eq!([level("alone"), level("none"), level("eth0")], [Level::Note, Level::Note, Level::Refuse]);
    }
}
