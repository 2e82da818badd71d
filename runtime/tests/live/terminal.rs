//! The terminal of a detached process: its master comes over the console socket.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use brig_sys::socket;
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::json;

use crate::helpers::script;
use crate::support::Bundle;

struct Console {
    listener: UnixListener,
    path: PathBuf,
}

impl Console {
    fn new(bundle: &Bundle) -> Console {
        let path = bundle.path().join("console");
        Console { listener: UnixListener::bind(&path).unwrap(), path }
    }

    fn flag(&self) -> [&str; 2] {
        ["--console-socket", self.path.to_str().unwrap()]
    }

    fn receive(&self) -> (String, File) {
        let (stream, _) = self.listener.accept().unwrap();
        let (name, fds) = socket::receive(stream.as_fd(), 4096).unwrap();
        let [master]: [OwnedFd; 1] = fds.try_into().unwrap();
        (String::from_utf8(name).unwrap(), File::from(master))
    }
}

fn read_until(master: &mut File, marker: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut found = String::new();
    while !found.contains(marker) {
        assert!(Instant::now() < deadline, "no {marker:?} in {found:?}");
        let limit = rustix::time::Timespec { tv_sec: 1, tv_nsec: 0 };
        if poll(&mut [PollFd::new(master, PollFlags::IN)], Some(&limit)).unwrap() == 0 {
            continue;
        }
        let mut bytes = [0; 1024];
        let count = master.read(&mut bytes).unwrap_or_else(|error| panic!("{error} after {found:?}"));
        found.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    found
}

const LOOK: &str = "stty size; tty; stat -c %u:%g $(tty); echo to the console >/dev/console; \
     stat -c %t:%T /dev/console; ps -o pid,tty; echo ready; read line; echo got $line; exec sleep 1000";

#[test]
fn a_created_container_gets_its_terminal_over_the_socket() {
    for (uid, mapped) in [(0, false), (1000, false), (1000, true)] {
        let mut bundle = script(LOOK);
        if mapped {
            bundle.map_ids();
        }
        bundle.config["process"]["terminal"] = json!(true);
        bundle.config["process"]["consoleSize"] = json!({"height": 33, "width": 99});
        bundle.config["process"]["user"] = json!({"uid": uid, "gid": 5});
        bundle.write();
        let console = Console::new(&bundle);
        let line = [&["create", "-b", bundle.path().to_str().unwrap()], &console.flag()[..], &[&bundle.id]].concat();
        bundle.ok(&line);
        let (name, mut master) = console.receive();
        assert_eq!(name, "/dev/pts/0");
        bundle.ok(&["start", &bundle.id]);
        let text = read_until(&mut master, "ready");
        let lines: Vec<&str> = text.split("\r\n").collect();
        assert_eq!(lines[..2], ["33 99", "/dev/pts/0"], "{text:?}");
        assert_eq!(lines[2], format!("{uid}:5"), "{text:?}");
        assert_eq!(lines[3], "to the console", "{text:?}");
        assert!(lines[4].starts_with("88:"), "{text:?}");
        master.write_all(b"word\r").unwrap();
        read_until(&mut master, "got word");
        // An interrupt goes to the program: it is the terminal's foreground.
        let console_of = |pid: &str| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            let after = stat.rsplit_once(')').unwrap().1.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            (after[2].clone(), after[3].clone(), after[4].clone())
        };
        let (group, session, terminal) = console_of(&bundle.state()["pid"].to_string());
        assert_eq!(group, session);
        assert_ne!(terminal, "0", "it has no controlling terminal");
    }
}

#[test]
fn an_exec_gets_a_terminal_of_its_own() {
    for mapped in [false, true] {
        let mut bundle = script("exec sleep 1000");
        if mapped {
            bundle.map_ids();
        }
        bundle.start();
        let console = Console::new(&bundle);
        let look = "stty size; tty; stat -c %u $(tty); echo ready; exec sleep 1001";
        let line = [&["exec", "-d", "-t", "-u", "7"], &console.flag()[..], &[&bundle.id, "sh", "-c", look]].concat();
        bundle.ok(&line);
        let (name, mut master) = console.receive();
        let text = read_until(&mut master, "ready");
        let lines: Vec<&str> = text.split("\r\n").collect();
        assert_eq!(lines[1..3], [name.as_str(), "7"], "{text:?}");
        drop(master);
    }
}
