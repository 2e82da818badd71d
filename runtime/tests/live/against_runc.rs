//! A comparison of brig with runc: the same container under both has the same texts, codes and facts.

use std::process::Output;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::helpers::script;
use crate::support::{BRIG, Bundle};

/// The observable result: the exit code, standard output, and the last message on standard error.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    code: Option<i32>,
    out: String,
    message: String,
}

impl Seen {
    /// Checks for the same result with the reference runtime's text, on which callers match. A file, a root or a reason
    /// may follow it.
    fn continues(&self, reference: &Seen) -> bool {
        let more = self.message.trim_end().strip_prefix(reference.message.trim_end());
        let is_more = |more: &str| more.is_empty() || more.starts_with(": ");
        self.code == reference.code && self.out == reference.out && more.is_some_and(is_more)
    }
}

/// Removes the parts of an output that differ between containers.
fn seen(bundle: &Bundle, output: &Output) -> Seen {
    let plain = |bytes: &[u8]| {
        let text =
            String::from_utf8_lossy(bytes).replace(&bundle.id, "ID").replace(bundle.path().to_str().unwrap(), "DIR");
        text.replace("runc ", "brig ")
    };
    // This warning of runc's concerns a moment (the cgroup was busy at its first attempt), not the result.
    let stderr = plain(&output.stderr);
    let lasting = |line: &&str| !line.contains("Failed to remove cgroup (will retry)");
    let stderr: String = stderr.split_inclusive('\n').filter(lasting).collect();
    let mut errors = stderr.lines().filter_map(|line| line.split_once("level=error msg=")).map(|(_, text)| text);
    let message = errors.next_back().map_or(stderr.clone(), |text| {
        let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
        text.replace("\\\"", "\"")
    });
    Seen { code: output.status.code(), out: plain(&output.stdout), message }
}

/// Runs the same action with a bundle for each runtime.
fn both<T>(make: impl Fn() -> Bundle, act: impl Fn(&Bundle) -> T) -> [T; 2] {
    [BRIG, "runc"].map(|runtime| {
        let mut bundle = make();
        bundle.runtime = runtime;
        act(&bundle)
    })
}

fn run_both(change: impl Fn(&mut Value)) -> [Seen; 2] {
    let make = || {
        let mut bundle = script("echo out; echo err >&2; exit 3");
        for directory in ["etc", "work"] {
            std::fs::create_dir(bundle.rootfs(directory)).unwrap();
        }
        std::fs::write(bundle.rootfs("etc/passwd"), "root:x:0:0::/root:/bin/sh\nme:x:1000:1000::/home/me:/bin/sh\n")
            .unwrap();
        std::fs::write(bundle.rootfs("etc/plain"), "text").unwrap();
        change(&mut bundle.config);
        bundle
    };
    both(make, |bundle| seen(bundle, &bundle.run()))
}

#[test]
fn programs_have_the_outcome_of_runc() {
    let runs: &[(&str, Value)] = &[
        ("exit code", json!(["sh", "-c", "echo out; exit 3"])),
        ("killed", json!(["sh", "-c", "kill -KILL $$; exit 4"])),
        ("killed child", json!(["sh", "-c", "sh -c 'kill -TERM $$'; exit $?"])),
        ("not found", json!(["nope"])),
        ("no file", json!(["/nope"])),
        // Without "a directory": runc 1.1 calls it "permission denied", and later versions as brig does.
        ("not executable", json!(["/etc/plain"])),
        ("not in the path but executable", json!(["plain"])),
        ("below a file", json!(["/etc/plain/x"])),
    ];
    for (name, args) in runs {
        let [ours, theirs] = run_both(|config| config["process"]["args"] = args.clone());
        assert!(ours.continues(&theirs), "{name}: {ours:?} {theirs:?}");
    }
}

#[test]
fn facts_are_those_of_runc() {
    // Of the mounts not those that hide a path, for which runc 1.1 takes the container's /dev/null and larger tmpfs,
    // nor the cgroups, where brig has a read-only tmpfs and the v2 hierarchy of a hybrid host too. Nor the ignored
    // signals: what glibc's posix_spawn leaves ignored in us, runc's Go leaves to the container.
    let look = "id; pwd; env | grep -v SHLVL | sort; umask; grep -E '^(Cap|NoNew|Seccomp:|SigBlk)' /proc/self/status; \
        grep -E 'open|core|proc' /proc/self/limits; cat /proc/self/oom_score_adj; ls /proc/self/fd | wc -l; \
        stat -c '%n %f %u %g %t:%T' /dev/* /dev/kit/*; cut -d' ' -f 5- /proc/self/mountinfo | \
        grep -vE '^(/proc/(acpi|keys|timer_list|scsi|latency|sched|kcore|timer_stats)|/sys/(firmware|fs/cgroup|devices))' | sort";
    type Change = (&'static str, fn(&mut Value));
    let changes: &[Change] = &[
        ("as it is", |_| ()),
        ("user", |config| config["process"]["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [7]})),
        ("unknown user", |config| config["process"]["user"] = json!({"uid": 77, "gid": 78})),
        ("umask", |config| config["process"]["user"] = json!({"uid": 0, "gid": 0, "umask": 63})),
        ("cwd", |config| config["process"]["cwd"] = json!("/new/place")),
        ("env", |config| config["process"]["env"] = json!(["PATH=/bin", "B=2", "A=1", "B=3", "HOME="])),
        ("no capabilities", |config| drop(config["process"].as_object_mut().unwrap().remove("capabilities"))),
        ("ambient", |config| {
            config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
            let list = json!(["CAP_KILL", "CAP_NET_RAW"]);
            for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
                config["process"]["capabilities"][set] = list.clone();
            }
        }),
        ("inheritable", |config| config["process"]["capabilities"]["inheritable"] = json!(["CAP_KILL"])),
        ("privileges", |config| config["process"]["noNewPrivileges"] = json!(false)),
        ("limits", |config| {
            config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}]);
        }),
        ("score", |config| config["process"]["oomScoreAdj"] = json!(100)),
        ("read-only", |config| config["root"]["readonly"] = json!(true)),
        ("tmpfs", |config| {
            let more = json!({"destination": "/work", "type": "tmpfs", "source": "x", "options": ["size=64k", "noexec", "mode=700"]});
            config["mounts"].as_array_mut().unwrap().push(more);
        }),
        ("bind", |config| {
            let more = json!({"destination": "/bound", "type": "bind", "source": "/usr/share", "options": ["rbind", "ro", "nosuid"]});
            config["mounts"].as_array_mut().unwrap().push(more);
        }),
        ("device", |config| {
            config["linux"]["devices"] = json!([{"path": "/dev/kit/net", "type": "c", "major": 10, "minor": 200, "fileMode": 384, "uid": 7, "gid": 8}]);
        }),
        ("no masks", |config| {
            config["linux"]["maskedPaths"] = json!([]);
            config["linux"]["readonlyPaths"] = json!([]);
        }),
    ];
    // runc 1.1 raises its own soft limit of open files to the hard one, and hands that down.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    for (name, change) in changes {
        let [ours, theirs] = run_both(|config| {
            config["process"]["args"][2] = json!(look);
            change(config);
        });
        let lines = |seen: &Seen| seen.out.lines().map(str::to_owned).collect::<Vec<_>>();
        // The exit code is compared first, because a failed run has no lines.
        assert_eq!((ours.code, &ours.message), (theirs.code, &theirs.message), "{name}");
        assert_eq!(lines(&ours), lines(&theirs), "{name}");
    }
}

#[test]
fn execs_have_the_outcome_of_runc() {
    let make = || {
        let bundle = script("exec sleep 1000");
        std::fs::create_dir(bundle.rootfs("etc")).unwrap();
        std::fs::write(bundle.rootfs("etc/plain"), "text").unwrap();
        bundle
    };
    let look = "id; pwd; env | grep -v SHLVL | sort; umask; ls /proc/self/fd | wc -l; \
        grep -E '^(Cap|NoNew|Seccomp:|SigBlk)' /proc/self/status; cat /proc/self/oom_score_adj";
    let lines: &[&[&str]] = &[
        &["ID", "sh", "-c", "echo out; echo err >&2; exit 7"],
        &["ID", "sh", "-c", "kill -KILL $$"],
        &["ID", "nope"],
        &["ID", "/nope"],
        &["ID", "/etc/plain"],
        &["ID", "sh", "-c", look],
        &["-u", "1000", "ID", "sh", "-c", look],
        &["-u", "1000:7", "-g", "8", "-g", "9", "ID", "sh", "-c", look],
        &["--cwd", "/bin", "-e", "A=1", "-e", "PATH=/bin", "ID", "sh", "-c", look],
        &["-c", "CAP_SYS_ADMIN", "ID", "sh", "-c", look],
        &["-c", "CAP_SYS_ADMIN", "-u", "5", "ID", "sh", "-c", look],
        &["--no-new-privs", "ID", "sh", "-c", look],
        &["ID"],
        // Only the codes are runc's, and this part of its message.
        &["--cwd", "relative", "ID", "true", "#", "Cwd must be an absolute path"],
        &["--cwd", "/none", "ID", "pwd", "#", "chdir", "no such file or directory"],
        &["-u", "x", "ID", "true", "#"],
        &["-c", "CAP_NOPE", "ID", "true", "#", "ignoring unknown or unavailable capabilities: [CAP_NOPE]"],
        &["-e", "NOVALUE", "ID", "true", "#", "invalid environment variable: \"NOVALUE\""],
        &["-p", "/nope.json", "ID", "#", "/nope.json", "no such file or directory"],
    ];
    let command = |line: &[&'static str]| line.split(|word| *word == "#").next().unwrap().to_vec();
    let act = |bundle: &Bundle| -> Vec<Seen> {
        bundle.start();
        let one = |line: &&[&'static str]| {
            let name = |word: &str| if word == "ID" { bundle.id.clone() } else { word.to_owned() };
            let words: Vec<String> = command(line).into_iter().map(name).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            seen(bundle, &bundle.brig(&[&["exec"], &words[..]].concat()))
        };
        lines.iter().map(one).collect()
    };
    let [ours, theirs] = both(make, act);
    for ((line, ours), theirs) in lines.iter().zip(ours).zip(theirs) {
        match line.iter().position(|word| *word == "#") {
            None => assert!(ours.continues(&theirs), "{line:?}: {ours:?} {theirs:?}"),
            Some(place) => {
                assert_eq!(ours.code, theirs.code, "{line:?}: {ours:?} {theirs:?}");
                for words in &line[place + 1..] {
                    let lower = |seen: &Seen| seen.message.to_lowercase().replace("\\\"", "\"");
                    let words = words.to_lowercase();
                    assert!(lower(&ours).contains(&words) && lower(&theirs).contains(&words), "{ours:?} {theirs:?}");
                }
            }
        }
    }
}

#[test]
fn verbs_in_every_state_have_the_outcome_of_runc() {
    let verbs: &[&[&str]] = &[
        &["start", "ID"],
        &["exec", "ID", "true"],
        &["pause", "ID"],
        &["resume", "ID"],
        &["kill", "ID", "0"],
        &["kill", "ID", "WRONG"],
        &["kill", "-a", "ID", "0"],
        &["kill", "ID", "KILL"],
        &["kill", "-a", "ID", "KILL"],
        &["ps", "-f", "json", "ID"],
        &["events", "--stats", "ID"],
        &["update", "--pids-limit", "100", "ID"],
        &["create", "-b", "DIR", "ID"],
        &["run", "-b", "DIR", "ID"],
        &["delete", "ID"],
        &["delete", "-f", "ID"],
    ];
    let make = || {
        let mut bundle = script("exec sleep 1000");
        bundle.config["linux"]["resources"] = json!({"pids": {"limit": 50}});
        bundle
    };
    let mut differences = Vec::new();
    for state in ["created", "running", "paused", "stopped"] {
        let [ours, theirs] = both(make, |bundle| {
            crate::lifecycle::bring_to(bundle, state);
            verbs.iter().map(|verb| one_verb(bundle, state, verb)).collect::<Vec<_>>()
        });
        for ((verb, ours), theirs) in verbs.iter().zip(ours).zip(theirs) {
            if !ours.0.continues(&theirs.0) || ours.1 != theirs.1 {
                differences.push(format!("{verb:?} when {state}\n  ours   {ours:?}\n  theirs {theirs:?}"));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// The result of a verb for a container in this state, and the state afterwards. The container is then restored to the
/// first state.
fn one_verb(bundle: &Bundle, state: &str, verb: &[&str]) -> (Seen, Value) {
    let fill = |word: &&str| match *word {
        "ID" => bundle.id.clone(),
        "DIR" => bundle.path().display().to_string(),
        other => other.to_owned(),
    };
    let words: Vec<String> = verb.iter().map(fill).collect();
    let output = bundle.brig(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let mut seen = seen(bundle, &output);
    // These numbers vary.
    if matches!(verb[0], "ps" | "events") && seen.code == Some(0) {
        seen.out = seen.out.replace(char::is_numeric, "").chars().take(20).collect();
    }
    let after = bundle.brig(&["state", &bundle.id]);
    let after: Value = serde_json::from_slice(&after.stdout).unwrap_or_default();
    let mut left = after["status"].clone();
    if left != state || verb.contains(&"KILL") {
        bundle.ok(&["delete", "-f", &bundle.id]);
        crate::lifecycle::bring_to(bundle, state);
    }
    // After KILL the exit is asynchronous; and runc 1.1 thaws a container to signal all of it.
    if verb.contains(&"KILL") || state == "paused" && verb[0] == "kill" {
        left = Value::Null;
    }
    (seen, left)
}
