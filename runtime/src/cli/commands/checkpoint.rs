//! `checkpoint` and `restore`: recognised, and refused by name.
#![forbid(unsafe_code)]

use super::{Count, Flag, Order, Verb};
use crate::error::{Error, ErrorKind, Result};

pub const CHECKPOINT: Verb = Verb {
    name: "checkpoint",
    usage: "CONTAINER",
    about: "save a running container to disk (not supported by this build)",
    details: "",
    example: "brig checkpoint --image-path /var/tmp/box1 box1",
    flags: &[
        Flag::value("image-path", "", "DIR", "where the image goes"),
        Flag::value("work-path", "", "DIR", "where criu works"),
        Flag::value("parent-path", "", "DIR", "an earlier image that this one adds to"),
        Flag::switch("leave-running", "", "do not stop the container"),
        Flag::switch("tcp-established", "", "save open TCP connections"),
        Flag::switch("tcp-skip-in-flight", "", "leave out connections that are being made"),
        Flag::switch("link-remap", "", "save files that are open and unlinked"),
        Flag::switch("ext-unix-sk", "", "save unix sockets to the outside"),
        Flag::switch("shell-job", "", "save a job of a shell"),
        Flag::switch("lazy-pages", "", "serve pages on demand"),
        Flag::value("status-fd", "", "FD", "where criu says that it is ready"),
        Flag::value("page-server", "", "ADDRESS:PORT", "send pages there"),
        Flag::switch("file-locks", "", "save file locks"),
        Flag::switch("pre-dump", "", "save memory alone, and go on"),
        Flag::value("manage-cgroups-mode", "", "MODE", "soft, full, strict or ignore"),
        Flag::value("empty-ns", "", "KIND", "make a namespace, but do not save what it holds"),
        Flag::switch("auto-dedup", "", "drop pages that a later image holds"),
    ],
    order: Order::Anywhere,
    count: Count::Exactly(1),
    run: |_, _| refuse("checkpoint"),
};

pub const RESTORE: Verb = Verb {
    name: "restore",
    usage: "CONTAINER",
    about: "bring a saved container back (not supported by this build)",
    details: "",
    example: "brig restore --image-path /var/tmp/box1 box1",
    flags: &[
        Flag::value("console-socket", "", "SOCKET", "unix socket that receives the terminal"),
        Flag::value("image-path", "", "DIR", "where the image is"),
        Flag::value("work-path", "", "DIR", "where criu works"),
        Flag::switch("tcp-established", "", "bring TCP connections back"),
        Flag::switch("ext-unix-sk", "", "bring unix sockets to the outside back"),
        Flag::switch("shell-job", "", "bring a job of a shell back"),
        Flag::switch("file-locks", "", "bring file locks back"),
        Flag::value("manage-cgroups-mode", "", "MODE", "soft, full, strict or ignore"),
        Flag::value("bundle", "b", "DIR", "the bundle (default: the working directory)"),
        Flag::switch("detach", "d", "do not wait for the container"),
        Flag::value("pid-file", "", "FILE", "write the pid there"),
        Flag::switch("no-subreaper", "", "do not adopt orphans"),
        Flag::switch("no-pivot", "", "do not use pivot_root"),
        Flag::value("empty-ns", "", "KIND", "make a namespace, but leave it empty"),
        Flag::switch("auto-dedup", "", "drop pages that were read"),
        Flag::switch("lazy-pages", "", "read pages on demand"),
        Flag::value("lsm-profile", "", "TYPE:NAME", "security profile instead of the saved one"),
        Flag::value("lsm-mount-context", "", "CONTEXT", "security context of mounts"),
    ],
    order: Order::Anywhere,
    count: Count::Exactly(1),
    run: |_, _| refuse("restore"),
};

fn refuse(verb: &str) -> Result<i32> {
    Err(Error::new(ErrorKind::Unsupported, format!("{verb} is not supported by this build yet")))
}
