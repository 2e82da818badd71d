//! The build of brig that runs as init, if the path of the running program leads to another build.

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

use crate::helpers::script;
use crate::support::{BRIG, Bundle, copy_program, output, show};

/// The last bytes of the started build.
const RUNNING: &str = "the running build";
/// The last bytes of another build.
const ANOTHER: &str = "another build, not";

/// A bundle with two builds of brig beside it: `dir/brig`, and `other/brig`.
fn two_builds() -> Bundle {
    let bundle = script("exec sleep 1000");
    for (directory, mark) in [("dir", RUNNING), ("other", ANOTHER)] {
        fs::create_dir(bundle.path().join(directory)).unwrap();
        let path = bundle.path().join(directory).join("brig");
        copy_program(BRIG, &path);
        // Another process writes the file: see copy_program.
        let script = format!("printf %s '{mark}' >>\"$1\"");
        assert!(Command::new("sh").args(["-ec", &script, "sh"]).arg(&path).status().unwrap().success());
    }
    bundle
}

/// Runs a shell script in a mount namespace of its own, whose last command becomes `brig create`.
fn create(bundle: &Bundle, script: &str) {
    bundle.write();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec"]);
    command.arg(format!("{script} \"$@\"")).arg("sh");
    command.arg("--root").arg(bundle.state_root()).args(["create", "-b"]).arg(bundle.path()).arg(&bundle.id);
    let created = output(command.current_dir(bundle.path()).stdin(Stdio::null()));
    assert!(created.status.success(), "{script}: {}", show(&created));
}

/// The last bytes of the program of the init that waits at its gate, and whether it is a copy in memory.
fn init(bundle: &Bundle) -> (String, bool) {
    let exe = format!("/proc/{}/exe", bundle.state()["pid"]);
    let file = fs::File::open(&exe).unwrap();
    let mut end = vec![0; RUNNING.len()];
    file.read_exact_at(&mut end, file.metadata().unwrap().len() - RUNNING.len() as u64).unwrap();
    let is_copy = fs::read_link(&exe).unwrap().to_string_lossy().starts_with("/memfd:");
    (String::from_utf8_lossy(&end).into_owned(), is_copy)
}

#[test]
fn init_is_the_running_build_whatever_its_name_leads_to() {
    let cases = [
        ("bound onto the file of another build", "mount --bind dir/brig other/brig; exec other/brig"),
        ("a mount upon its directory", "exec 3<dir/brig; mount --bind other dir; exec /proc/self/fd/3"),
        ("replaced", "exec 3<dir/brig; mv other/brig dir/brig; exec /proc/self/fd/3"),
        ("deleted", "exec 3<dir/brig; rm dir/brig; exec /proc/self/fd/3"),
        (
            "deleted, and a file of the name that the link has then",
            "exec 3<dir/brig; rm dir/brig; mv other/brig 'dir/brig (deleted)'; exec /proc/self/fd/3",
        ),
        (
            "its mount detached",
            "mount --bind dir dir; exec 3<dir/brig; umount -l dir; mv other/brig dir; exec /proc/self/fd/3",
        ),
    ];
    for (what, script) in cases {
        let bundle = two_builds();
        create(&bundle, script);
        let (end, is_copy) = init(&bundle);
        assert_eq!(end, RUNNING, "{what}");
        assert!(is_copy, "{what}: expected a copy in memory");
    }
}

#[test]
fn a_program_where_its_name_says_is_executed_through_an_overlay() {
    let odd = "a, b:c \\d\\:e";
    let cases = [
        ("an ordinary name", "exec dir/brig".to_owned()),
        ("an odd name", format!("mkdir '{odd}'; mv dir/brig '{odd}/{odd}'; exec \"$PWD/{odd}/{odd}\"")),
        ("renamed", "exec 3<dir/brig; mv dir/brig dir/brig.old; mv other/brig dir; exec /proc/self/fd/3".to_owned()),
        ("another build bound onto its file",
         "exec 3<dir/brig; mount --bind other/brig dir/brig; exec /proc/self/fd/3".to_owned()),
        ("a symbolic link", "ln -s dir/brig link; exec ./link".to_owned()),
        ("on a tmpfs", "mkdir t; mount -t tmpfs tmpfs t; cp dir/brig t; exec t/brig".to_owned()),
        ("in a directory that is bound", "mount --bind dir other; exec other/brig".to_owned()),
        ("on an overlay", "mkdir e m; mount -t overlay -o lowerdir=dir:e overlay m; exec m/brig".to_owned()),
        ("copied up on an overlay",
         "mkdir t m; mount -t tmpfs tmpfs t; mkdir t/u t/w; mount -t overlay -o lowerdir=dir,upperdir=t/u,workdir=t/w \
            overlay m; touch m/brig; exec m/brig".to_owned()),
    ];
    for (what, script) in cases {
        let bundle = two_builds();
        create(&bundle, &script);
        assert_eq!(init(&bundle), (RUNNING.to_owned(), false), "{what}");
    }
}
