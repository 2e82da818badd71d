//! Lookups in a tree that an enemy has laid out, by openat2 and by hand.

use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use rustix::fs::RenameFlags;

use super::*;

/// A directory `root` with `outside` beside it.
struct Bed {
    dir: tempfile::TempDir,
    root: Dir,
}

fn bed() -> Bed {
    let dir = tempfile::tempdir().expect("tempdir");
    std::fs::create_dir(dir.path().join("root")).expect("root");
    std::fs::create_dir(dir.path().join("outside")).expect("outside");
    std::fs::write(dir.path().join("outside/secret"), "secret").expect("secret");
    let root = Dir::open_host(&dir.path().join("root")).expect("open");
    Bed { dir, root }
}

impl Bed {
    fn inside(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path)
    }

    fn outside_is_untouched(&self) {
        let names: Vec<_> = std::fs::read_dir(self.dir.path().join("outside"))
            .expect("outside")
            .map(|entry| entry.expect("entry").file_name())
            .collect();
        assert_eq!(names, ["secret"]);
    }
}

fn ino(fd: &OwnedFd) -> u64 {
    rustix::fs::fstat(fd).expect("fstat").st_ino
}

fn ino_of(path: &Path) -> u64 {
    rustix::fs::stat(path).expect("stat").st_ino
}

/// Both ways to look a path up must agree.
fn both(bed: &Bed, path: &str, links: Links) -> Result<u64, Errno> {
    let kernel = bed.root.open(Path::new(path), OFlags::PATH, links).map(|fd| ino(&fd)).map_err(|e| e.errno());
    let hand = bed.root.walk(Path::new(path), links, Missing::Fail).map(|fd| ino(&fd)).map_err(|e| e.errno());
    assert_eq!(kernel, hand, "{path}, {links:?}");
    kernel
}

#[test]
fn links_end_inside_the_root() {
    let bed = bed();
    std::fs::create_dir_all(bed.inside("a/b")).expect("a/b");
    std::fs::write(bed.inside("a/file"), "").expect("file");
    symlink("/a/b", bed.inside("absolute")).expect("symlink");
    symlink("../../../../../a", bed.inside("upward")).expect("symlink");
    symlink("../outside/secret", bed.inside("escape")).expect("symlink");
    symlink("loop", bed.inside("loop")).expect("symlink");
    let follow = Links::Follow;
    assert_eq!(both(&bed, "/absolute", follow), Ok(ino_of(&bed.inside("a/b"))));
    assert_eq!(both(&bed, "upward/b", follow), Ok(ino_of(&bed.inside("a/b"))));
    assert_eq!(both(&bed, "a/b/../../../../a/file", follow), Ok(ino_of(&bed.inside("a/file"))));
    assert_eq!(both(&bed, "/", follow), Ok(ino_of(&bed.inside("."))));
    assert_eq!(both(&bed, "..", follow), Ok(ino_of(&bed.inside("."))));
    assert_eq!(both(&bed, "escape", follow), Err(Errno::NOENT));
    assert_eq!(both(&bed, "loop", follow), Err(Errno::LOOP));
    assert_eq!(both(&bed, "a/file/x", follow), Err(Errno::NOTDIR));
    assert_eq!(both(&bed, "absolute", Links::Refuse), Err(Errno::LOOP));
    assert_eq!(both(&bed, "upward/b", Links::Refuse), Err(Errno::LOOP));
    assert!(both(&bed, "escape", Links::NotLast).is_ok(), "the link itself");
}

#[test]
fn missing_directories_are_made_inside() {
    let bed = bed();
    std::fs::create_dir(bed.inside("var")).expect("var");
    symlink("/run", bed.inside("var/run")).expect("symlink");
    symlink("../../../outside/new", bed.inside("escape")).expect("symlink");
    let made = bed.root.mkdir_all(Path::new("/var/run/secrets/x"), 0o755, Links::Follow).expect("mkdir_all");
    assert_eq!(ino(&made), ino_of(&bed.inside("run/secrets/x")));
    let made = bed.root.mkdir_all(Path::new("/escape/y"), 0o755, Links::Follow).expect("mkdir_all");
    assert_eq!(ino(&made), ino_of(&bed.inside("outside/new/y")));
    let file = bed.root.make_file(Path::new("/escape/deep/file"), 0o644, Links::Follow).expect("make_file");
    assert_eq!(ino(&file), ino_of(&bed.inside("outside/new/deep/file")));
    bed.outside_is_untouched();
}

#[test]
fn what_must_not_be_a_link_is_refused_when_it_is_missing_too() {
    let bed = bed();
    symlink("/elsewhere", bed.inside("proc")).expect("symlink");
    let refused = bed.root.mkdir_all(Path::new("/proc"), 0o755, Links::Refuse).expect_err("a symlink");
    assert_eq!(refused.errno(), Errno::LOOP);
    let refused = bed.root.mkdir_all(Path::new("/proc/x"), 0o755, Links::Refuse).expect_err("a symlink");
    assert_eq!(refused.errno(), Errno::LOOP);
    assert!(!bed.inside("elsewhere").exists());
    assert!(bed.root.mkdir_all(Path::new("/sys/new"), 0o755, Links::Refuse).is_ok());
}

#[test]
fn a_parent_and_a_name() {
    let bed = bed();
    symlink("../../outside", bed.inside("dev")).expect("symlink");
    let (parent, name) = bed.root.parent(Path::new("/dev/null")).expect("parent");
    assert_eq!(name, "null");
    assert_eq!(ino(&parent), ino_of(&bed.inside("outside")));
    assert_eq!(bed.root.parent(Path::new("/")).expect_err("no name").errno(), Errno::INVAL);
    bed.outside_is_untouched();
}

#[test]
fn magic_links_are_refused() {
    let proc = Dir::open_host(Path::new("/proc")).expect("open");
    let refused = proc.open(Path::new("self/root"), OFlags::PATH, Links::Follow).expect_err("a magic link");
    assert_eq!(refused.errno(), Errno::LOOP);
}

/// A directory and a symlink that leads out change places as fast as a thread can, while directories are made below.
#[test]
fn a_race_of_links_stays_inside() {
    let bed = bed();
    std::fs::create_dir(bed.inside("swap")).expect("swap");
    symlink("../outside", bed.inside("trap")).expect("symlink");
    let stop = Arc::new(AtomicBool::new(false));
    let turns = Arc::new(AtomicU32::new(0));
    let (enemy_stop, enemy_turns) = (stop.clone(), turns.clone());
    let directory = std::fs::File::open(bed.inside(".")).expect("open");
    let enemy = std::thread::spawn(move || {
        while !enemy_stop.load(Ordering::Relaxed) {
            rustix::fs::renameat_with(&directory, "swap", &directory, "trap", RenameFlags::EXCHANGE).expect("rename");
            enemy_turns.fetch_add(1, Ordering::Relaxed);
        }
    });
    // As often as it takes for the enemy to have been let run.
    for round in (0..).take_while(|round| *round < 2000 || turns.load(Ordering::Relaxed) <= 100) {
        let path = PathBuf::from(format!("/swap/{round}/deep"));
        // Either way is right, as long as it is inside; losing the race (ENOENT, EAGAIN) is, too.
        let _made = bed.root.mkdir_all(&path, 0o755, Links::Follow);
        let _made = bed.root.walk(&path.with_extension("file"), Links::Follow, Missing::MakeFile(0o644));
    }
    stop.store(true, Ordering::Relaxed);
    enemy.join().expect("join");
    bed.outside_is_untouched();
}
