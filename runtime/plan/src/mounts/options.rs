//! The mount options of the runtime, in one table; every other option is passed to the file system.
//!
//! Sources: mount(8), config.md "Linux mount options" of the OCI runtime specification, and runc's and crun's
//! additions to it. `features` prints the names.

use crate::{Findings, ids};
use brig_sys::mount::{
    ATTR_ATIME, ATTR_NOATIME, ATTR_NODEV, ATTR_NODIRATIME, ATTR_NOEXEC, ATTR_NOSUID, ATTR_NOSYMFOLLOW, ATTR_RDONLY,
    ATTR_RELATIME, ATTR_STRICTATIME, MS_LAZYTIME, MS_NOSYMFOLLOW,
};

/// The effect of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Sets these MS_ flags.
    Set(u64),
    /// Clears these MS_ flags.
    Clear(u64),
    /// Sets attributes (MOUNT_ATTR_) of the mount and all below it.
    SetAll(u64),
    /// Clears attributes of the mount and all below it.
    ClearAll(u64),
    /// Sets a propagation type, MS_REC included.
    Propagation(u64),
    /// Copy the image's files at the target into the new tmpfs.
    CopyUp,
    /// Copy the source, if it is a symlink, instead of its target.
    CopySymlink,
    /// Mount the source itself, if it is a symlink.
    SourceNoFollow,
    /// Mount over the target itself, if it is a symlink.
    TargetNoFollow,
    /// An idmapped mount; with true, the mounts below it too.
    IdMap(bool),
}

use serde::{Deserialize, Serialize};

use Meaning::{Clear, ClearAll, Propagation, Set, SetAll};

/// Every option of the runtime, sorted by name.
pub const OPTIONS: &[(&str, Meaning)] = &[
    ("async", Clear(libc::MS_SYNCHRONOUS)),
    ("atime", Clear(libc::MS_NOATIME)),
    ("bind", Set(libc::MS_BIND)),
    ("copy-symlink", Meaning::CopySymlink),
    ("defaults", Set(0)),
    ("dest-nofollow", Meaning::TargetNoFollow),
    ("dev", Clear(libc::MS_NODEV)),
    ("diratime", Clear(libc::MS_NODIRATIME)),
    ("dirsync", Set(libc::MS_DIRSYNC)),
    ("exec", Clear(libc::MS_NOEXEC)),
    ("idmap", Meaning::IdMap(false)),
    ("iversion", Set(libc::MS_I_VERSION)),
    ("lazytime", Set(MS_LAZYTIME)),
    ("loud", Clear(libc::MS_SILENT)),
    ("mand", Set(libc::MS_MANDLOCK)),
    ("noatime", Set(libc::MS_NOATIME)),
    ("nodev", Set(libc::MS_NODEV)),
    ("nodiratime", Set(libc::MS_NODIRATIME)),
    ("noexec", Set(libc::MS_NOEXEC)),
    ("noiversion", Clear(libc::MS_I_VERSION)),
    ("nolazytime", Clear(MS_LAZYTIME)),
    ("nomand", Clear(libc::MS_MANDLOCK)),
    ("norelatime", Clear(libc::MS_RELATIME)),
    ("nostrictatime", Clear(libc::MS_STRICTATIME)),
    ("nosuid", Set(libc::MS_NOSUID)),
    ("nosymfollow", Set(MS_NOSYMFOLLOW)),
    ("private", Propagation(libc::MS_PRIVATE)),
    ("ratime", ClearAll(ATTR_NOATIME)),
    ("rbind", Set(libc::MS_BIND | libc::MS_REC)),
    ("rdev", ClearAll(ATTR_NODEV)),
    ("rdiratime", ClearAll(ATTR_NODIRATIME)),
    ("relatime", Set(libc::MS_RELATIME)),
    ("remount", Set(libc::MS_REMOUNT)),
    ("rexec", ClearAll(ATTR_NOEXEC)),
    ("ridmap", Meaning::IdMap(true)),
    ("rnoatime", SetAll(ATTR_NOATIME)),
    ("rnodev", SetAll(ATTR_NODEV)),
    ("rnodiratime", SetAll(ATTR_NODIRATIME)),
    ("rnoexec", SetAll(ATTR_NOEXEC)),
    ("rnorelatime", ClearAll(ATTR_RELATIME)),
    ("rnostrictatime", ClearAll(ATTR_STRICTATIME)),
    ("rnosuid", SetAll(ATTR_NOSUID)),
    ("rnosymfollow", SetAll(ATTR_NOSYMFOLLOW)),
    ("ro", Set(libc::MS_RDONLY)),
    ("rprivate", Propagation(libc::MS_PRIVATE | libc::MS_REC)),
    ("rrelatime", SetAll(ATTR_RELATIME)),
    ("rro", SetAll(ATTR_RDONLY)),
    ("rrw", ClearAll(ATTR_RDONLY)),
    ("rshared", Propagation(libc::MS_SHARED | libc::MS_REC)),
    ("rslave", Propagation(libc::MS_SLAVE | libc::MS_REC)),
    ("rstrictatime", SetAll(ATTR_STRICTATIME)),
    ("rsuid", ClearAll(ATTR_NOSUID)),
    ("rsymfollow", ClearAll(ATTR_NOSYMFOLLOW)),
    ("runbindable", Propagation(libc::MS_UNBINDABLE | libc::MS_REC)),
    ("rw", Clear(libc::MS_RDONLY)),
    ("shared", Propagation(libc::MS_SHARED)),
    ("silent", Set(libc::MS_SILENT)),
    ("slave", Propagation(libc::MS_SLAVE)),
    ("src-nofollow", Meaning::SourceNoFollow),
    ("strictatime", Set(libc::MS_STRICTATIME)),
    ("suid", Clear(libc::MS_NOSUID)),
    ("symfollow", Clear(MS_NOSYMFOLLOW)),
    ("sync", Set(libc::MS_SYNCHRONOUS)),
    ("tmpcopyup", Meaning::CopyUp),
    ("unbindable", Propagation(libc::MS_UNBINDABLE)),
];

/// The access-time options of a whole tree, which set or clear attributes together.
const TIMES: [&str; 6] = ["ratime", "rnoatime", "rrelatime", "rnorelatime", "rstrictatime", "rnostrictatime"];

/// Looks an option up; `None` when the runtime does not know it.
pub fn meaning(name: &str) -> Option<Meaning> {
    OPTIONS.binary_search_by(|(known, _)| known.cmp(&name)).ok().map(|at| OPTIONS[at].1)
}

/// The supported option names, sorted; `features` prints them as mountOptions.
pub fn names() -> impl Iterator<Item = &'static str> {
    OPTIONS.iter().map(|(name, _)| *name)
}

/// Options of common file systems, for [`similar`].
const OF_FILE_SYSTEMS: [&str; 12] = [
    "gid",
    "hidepid",
    "huge",
    "mode",
    "newinstance",
    "nr_blocks",
    "nr_inodes",
    "ptmxmode",
    "size",
    "subset",
    "uid",
    "upperdir",
];

/// Common names for options that are called otherwise.
const SYNONYMS: [(&str, &str); 6] = [
    ("rdonly", "ro"),
    ("readonly", "ro"),
    ("read-only", "ro"),
    ("readwrite", "rw"),
    ("recursive", "rbind"),
    ("rdwr", "rw"),
];

/// The option that an unknown `name` may stand for; `None` when an option of that name exists.
pub fn similar(name: &str) -> Option<&'static str> {
    const MAX_NAME_LEN: usize = 32;
    let known = || names().chain(OF_FILE_SYSTEMS);
    if name.len() > MAX_NAME_LEN || known().any(|known| known == name) {
        return None;
    }
    let lower = name.to_ascii_lowercase();
    if let Some((_, meant)) = SYNONYMS.iter().find(|(word, _)| *word == lower) {
        return Some(meant);
    }
    let allowed = if name.len() < 5 { 1 } else { 2 };
    let near = known().map(|known| (edits(&lower, known), known));
    near.filter(|(edits, _)| *edits <= allowed).min_by_key(|(edits, _)| *edits).map(|(_, known)| known)
}

/// The edit distance: letters to insert, delete, replace or swap with the next one.
fn edits(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            if i == 0 || j == 0 {
                rows[i][j] = i + j;
                continue;
            }
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[a.len()][b.len()]
}

/// The MS_ flags of a propagation type (`rootfsPropagation`).
pub fn propagation(name: &str) -> Option<u64> {
    match meaning(name)? {
        Propagation(flags) => Some(flags),
        _ => None,
    }
}

bitflags::bitflags! {
    /// Mount options that the runtime itself implements.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct RuntimeOptions: u8 {
        /// Copy the image's files at the target into the new tmpfs.
        const COPY_UP = 1;
        /// Copy the source if it is a symlink.
        const COPY_SYMLINK = 1 << 1;
        /// Do not follow the source's last symlink.
        const SOURCE_NOFOLLOW = 1 << 2;
        /// Do not follow the target's last symlink.
        const TARGET_NOFOLLOW = 1 << 3;
    }
}

/// The parsed options of a mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// MS_ flags that are set.
    pub flags: u64,
    /// MS_ flags that are cleared explicitly and not set again later.
    pub cleared: u64,
    /// MOUNT_ATTR_ set for the whole tree.
    pub all_set: u64,
    /// MOUNT_ATTR_ cleared for the whole tree.
    pub all_clear: u64,
    /// Some option applies to the whole tree.
    pub recursive: bool,
    /// Propagation types, in order.
    pub propagation: Vec<u64>,
    /// The options that the runtime itself implements.
    pub own: RuntimeOptions,
    /// See [`Meaning::IdMap`]; with the text after a `=`.
    pub idmap: Option<(bool, Option<String>)>,
    /// The file system's own options: name, and value if there was a `=`.
    pub data: Vec<(String, Option<String>)>,
}

/// Divides options into those of the runtime and those of the file system. A later option overrides an earlier one.
pub fn parse<S: AsRef<str>>(options: &[S]) -> Parsed {
    let mut parsed = Parsed::default();
    for option in options.iter().map(AsRef::as_ref).filter(|option| !option.is_empty()) {
        match meaning(option) {
            Some(Set(flags)) => {
                parsed.flags |= flags;
                parsed.cleared &= !flags;
            }
            Some(Clear(flags)) => {
                parsed.flags &= !flags;
                parsed.cleared |= flags;
            }
            Some(Meaning::SetAll(set)) => parsed.whole_tree(option, set, 0),
            Some(Meaning::ClearAll(clear)) => parsed.whole_tree(option, 0, clear),
            Some(Propagation(flags)) => parsed.propagation.push(flags),
            Some(Meaning::CopyUp) => parsed.own |= RuntimeOptions::COPY_UP,
            Some(Meaning::CopySymlink) => parsed.own |= RuntimeOptions::COPY_SYMLINK,
            Some(Meaning::SourceNoFollow) => parsed.own |= RuntimeOptions::SOURCE_NOFOLLOW,
            Some(Meaning::TargetNoFollow) => parsed.own |= RuntimeOptions::TARGET_NOFOLLOW,
            Some(Meaning::IdMap(recursive)) => parsed.idmap = Some((recursive, None)),
            None => match option.split_once('=').map(|(name, value)| (meaning(name), value)) {
                Some((Some(Meaning::IdMap(recursive)), maps)) => {
                    parsed.idmap = Some((recursive, Some(maps.to_owned())))
                }
                // One string may hold several of the file system's options, as in fstab.
                _ => parsed.data.extend(split_data(option)),
            },
        }
    }
    parsed
}

impl Parsed {
    fn whole_tree(&mut self, option: &str, set: u64, clear: u64) {
        self.recursive = true;
        if TIMES.contains(&option) {
            // The kernel holds access times as one value of three, not as one bit each, so it is replaced as a whole.
            // Clearing one of them means the default, relatime.
            self.all_set = (self.all_set & !ATTR_ATIME) | set;
            self.all_clear |= ATTR_ATIME;
        } else {
            self.all_set = (self.all_set | set) & !clear;
            self.all_clear = (self.all_clear | clear) & !set;
        }
    }
}

/// Splits `a=1,b,c="x,y"` at the commas that are neither quoted nor escaped, and removes the quotes.
fn split_data(option: &str) -> Vec<(String, Option<String>)> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    let mut escaped = false;
    for letter in option.chars() {
        let part = parts.len() - 1;
        match letter {
            '"' if !escaped => quoted = !quoted,
            ',' if !quoted && !escaped => parts.push(String::new()),
            other => parts[part].push(other),
        }
        escaped = letter == '\\' && !escaped;
    }
    parts.retain(|part| !part.is_empty());
    parts
        .into_iter()
        .map(|part| match part.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (part, None),
        })
        .collect()
}

/// Checks owners among file system options: (uid_t)-1 is not an id (tmpfs(5), mount.fuse3(8)).
pub(super) fn check_owners(at: &str, data: &[(String, Option<String>)], findings: &mut Findings) {
    const OWNERS: [&str; 4] = ["uid", "gid", "user_id", "group_id"];
    for (name, value) in data.iter().filter(|(name, _)| OWNERS.contains(&name.as_str())) {
        if let Some(value) = value.as_deref().filter(|value| ids::is_out_of_range(value)) {
            findings.deny(at, format!("{name}={value} is out of range: expected {}", ids::RANGE), "");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_option_suggests_a_similar_one() {
        let pairs =
            [("nosiud", "nosuid"), ("readonly", "ro"), ("noexecs", "noexec"), ("szie", "size"), ("NODEV", "nodev")];
        for (typed, meant) in pairs {
            assert_eq!(similar(typed), Some(meant), "{typed}");
        }
        for name in ["nosuid", "size", "lowerdir", "subvol", "x"] {
            assert_eq!(similar(name), None, "{name}");
        }
    }
    use proptest::prelude::*;

    #[test]
    fn the_table_is_sorted_without_duplicates() {
        assert!(OPTIONS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn every_option_that_runc_lists_is_known() {
        let listed = "ro rw suid nosuid dev nodev exec noexec sync async dirsync remount mand nomand atime noatime \
            diratime nodiratime relatime norelatime strictatime nostrictatime lazytime nolazytime iversion noiversion \
            silent loud nosymfollow symfollow bind rbind private shared slave unbindable rprivate rshared rslave \
            runbindable rro rrw rnosuid rsuid rnodev rdev rnoexec rexec rnoatime ratime rdiratime rnodiratime \
            rrelatime rnorelatime rstrictatime rnostrictatime rnosymfollow rsymfollow tmpcopyup defaults";
        for name in listed.split_ascii_whitespace() {
            assert!(names().any(|known| known == name), "{name}");
        }
    }

    #[test]
    fn a_later_option_wins() {
        let parsed = parse(&["ro", "nosuid", "rw", "noexec"]);
        assert_eq!(parsed.flags, libc::MS_NOSUID | libc::MS_NOEXEC);
        assert_eq!(parsed.cleared, libc::MS_RDONLY);
        let parsed = parse(&["rw", "ro"]);
        assert_eq!((parsed.flags, parsed.cleared), (libc::MS_RDONLY, 0));
    }

    #[test]
    fn unknown_options_are_passed_to_the_file_system() {
        let parsed = parse(&["size=64k", "mode=755,gid=5", "newinstance", "context=\"a,b\""]);
        let text = |s: &str| Some(s.to_owned());
        assert_eq!(
            parsed.data,
            [
                ("size".to_owned(), text("64k")),
                ("mode".to_owned(), text("755")),
                ("gid".to_owned(), text("5")),
                ("newinstance".to_owned(), None),
                ("context".to_owned(), text("a,b")),
            ]
        );
    }

    #[test]
    fn access_times_of_a_tree_are_one_value() {
        let parsed = parse(&["rnoatime", "rro"]);
        assert_eq!((parsed.all_set, parsed.all_clear), (ATTR_NOATIME | ATTR_RDONLY, ATTR_ATIME));
        let parsed = parse(&["ratime"]);
        assert_eq!((parsed.all_set, parsed.all_clear), (0, ATTR_ATIME));
    }

    proptest! {
        #[test]
        fn any_options_are_parsed_and_no_flag_is_both_set_and_cleared(
            options in proptest::collection::vec(
                prop_oneof![proptest::sample::select(OPTIONS).prop_map(|o| o.0.to_owned()), "[a-z=,\"\\\\]{0,12}"], 0..12)
        ) {
            let parsed = parse(&options);
            prop_assert_eq!(parsed.flags & parsed.cleared, 0);
            prop_assert_eq!(parsed.all_set & parsed.all_clear & !ATTR_ATIME, 0);
        }
    }
}
