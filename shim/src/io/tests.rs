use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Instant;

use super::fd::open_fifo;
use super::*;

mod readers;
impl Copying {
    /// Opens standard input, as the start of a process does.
    fn open_stdin(&mut self) -> Result<()> {
        self.unopened_stdin().map_or(Ok(()), |path| self.copy_stdin(StdinEnds::open(&path)?))
    }
}

/// The limit of each wait.
const DEADLINE: Duration = Duration::from_secs(20);
/// Less than the timeout of a wait in vain, which is two seconds or more.
const SOON: Duration = Duration::from_millis(1500);

fn addresses(stdin: &str, stdout: &str, stderr: &str) -> Addresses {
    Addresses { stdin: stdin.into(), stdout: stdout.into(), stderr: stderr.into(), terminal: false }
}

fn owner() -> Owner {
    Owner {
        namespace: "n".into(),
        container: "c".into(),
        ids: (0, 0),
        ready_timeout: READY,
        timeouts: OutputTimeouts::default(),
    }
}

fn make_fifo(path: &Path) {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
}

/// Creates a FIFO in a directory of its own, which is removed with the first value.
fn fifo() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fifo");
    make_fifo(&path);
    (directory, path)
}

/// Waits until the FIFO is not empty, and the copying has handled the exit of its process.
async fn copied(fifo: impl AsFd) {
    let deadline = Instant::now() + DEADLINE;
    while rustix::io::ioctl_fionread(&fifo).unwrap() == 0 {
        assert!(Instant::now() < deadline, "nothing was copied");
        tokio::task::yield_now().await;
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// The three streams of a process at these addresses, and their copying.
fn started(stdin: &str, stdout: &str, stderr: &str) -> ([OwnedFd; 3], Copying) {
    started_for(&owner(), stdin, stdout, stderr)
}

fn started_for(owner: &Owner, stdin: &str, stdout: &str, stderr: &str) -> ([OwnedFd; 3], Copying) {
    let (streams, prepared) = Opened::open(&addresses(stdin, stdout, stderr), owner).unwrap().split().unwrap();
    let mut copying = prepared.start(None, &Arc::default()).unwrap();
    copying.open_stdin().unwrap();
    let Streams::Fds(fds) = streams else { panic!("no fds") };
    (fds, copying)
}

#[test]
fn addresses_have_their_schemes() {
    assert_eq!(Address::parse("").unwrap(), Address::Null);
    assert_eq!(Address::parse("/run/a").unwrap(), Address::Path("/run/a".into()));
    assert_eq!(Address::parse("fifo:///run/a%20b").unwrap(), Address::Path("/run/a b".into()));
    assert_eq!(Address::parse("file:///l?x=y").unwrap(), Address::File("/l".into()));
    assert!(matches!(Address::parse("binary-v2:///b?a=b").unwrap(), Address::Binary(_)));
    for wrong in ["http://x", "file://relative", "npipe:////./pipe"] {
        assert_eq!(Address::parse(wrong).unwrap_err().kind(), ErrorKind::InvalidConfig, "{wrong}");
    }
}

#[test]
fn a_fifo_without_a_reader_blocks_no_writer_and_a_late_reader_gets_all() {
    let (_directory, path) = fifo();
    run(async {
        let ([_, stdout, _], copying) = started("", path.to_str().unwrap(), "");
        let mut stdout = std::fs::File::from(stdout);
        stdout.write_all(b"first\n").unwrap();
        // A reader that comes and goes: the FIFO stays.
        for line in ["first\n", "second\n"] {
            let reader = path.clone();
            let read = tokio::task::spawn_blocking(move || {
                let mut bytes = [0; 32];
                let count = std::fs::File::open(reader).unwrap().read(&mut bytes).unwrap();
                String::from_utf8_lossy(&bytes[..count]).into_owned()
            });
            assert_eq!(read.await.unwrap(), line);
            stdout.write_all(b"second\n").unwrap();
        }
        drop(stdout);
        assert!(copying.drain().await);
    });
}

#[test]
fn output_of_a_short_process_is_kept_for_a_reader_that_comes_after_its_exit() {
    let (_directory, path) = fifo();
    run(async {
        let ([_, stdout, stderr], copying) = started("", path.to_str().unwrap(), "");
        std::fs::File::from(stdout).write_all(b"last words\n").unwrap();
        drop(stderr);
        let drained = tokio::spawn(copying.drain());
        // The open is for writing, since a reader would get the bytes already.
        copied(open_fifo(&path, false, true).unwrap()).await;
        let mut bytes = [0; 32];
        let count = std::fs::File::from(open_fifo(&path, true, false).unwrap()).read(&mut bytes).unwrap();
        assert_eq!(String::from_utf8_lossy(&bytes[..count]), "last words\n");
        assert!(drained.await.unwrap());
    });
}

#[test]
fn a_reader_that_comes_after_the_end_of_a_silent_process_gets_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let [out, err] = ["out", "err"].map(|name| directory.path().join(name));
    make_fifo(&out);
    make_fifo(&err);
    run(async {
        let ([_, stdout, stderr], copying) = started("", out.to_str().unwrap(), err.to_str().unwrap());
        drop((stdout, stderr));
        // Waits until both copies have reached the end of the output.
        while std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .flatten()
            .filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|link| link == out || link == err))
            .count()
            > 2
        {
            tokio::task::yield_now().await;
        }
        let late = out.clone();
        let read = tokio::task::spawn_blocking(move || std::fs::read(late));
        assert_eq!(tokio::time::timeout(Duration::from_secs(10), read).await.expect("the end").unwrap().unwrap(), b"");
        // The other output has no reader, and the deletion does not wait for one.
        let begin = Instant::now();
        assert!(copying.drain().await);
        assert!(begin.elapsed() < SOON);
    });
}

#[test]
fn as_many_streams_as_one_likes_wait_for_their_readers_at_once() {
    // inotify(7): a user has 128 instances by default.
    let directory = tempfile::tempdir().unwrap();
    let paths: Vec<PathBuf> = (0..140).map(|number| directory.path().join(number.to_string())).collect();
    run(async {
        let stage = watch::Sender::new(pump::Stage::Alive);
        let mut copies = JoinSet::new();
        for path in &paths {
            make_fifo(path);
            let (source, process) = rustix::pipe::pipe().unwrap();
            std::fs::File::from(process).write_all(b"words").unwrap();
            let source = Source::pipe(source).unwrap();
            copies.spawn(Fifo::open(path).unwrap().copy(source, CopyStage::new(stage.subscribe())).unwrap());
        }
        let watched = || {
            let fds = std::fs::read_dir("/proc/self/fd").unwrap().flatten().map(|fd| std::fs::read_link(fd.path()));
            fds.filter(|link| link.as_ref().is_ok_and(|link| link == Path::new("anon_inode:inotify"))).count()
        };
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        // Other tests have instances of their own.
        assert!((1..40).contains(&watched()), "{} instances", watched());
        for path in paths.iter().rev() {
            let mut reader = std::fs::File::from(open_fifo(path, true, false).unwrap());
            let mut bytes = [0; 32];
            let begin = Instant::now();
            let count = loop {
                match reader.read(&mut bytes) {
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && begin.elapsed() < DEADLINE => {}
                    read => break read.unwrap(),
                }
                tokio::task::yield_now().await;
            };
            assert_eq!(&bytes[..count], b"words", "{}", path.display());
        }
        stage.send_replace(pump::Stage::Deleted);
        let all = tokio::time::timeout(DEADLINE, copies.join_all());
        assert_eq!(all.await.expect("all of them end").len(), paths.len());
    });
}

#[test]
fn deletion_waits_until_a_reader_has_read_the_output() {
    let (_directory, path) = fifo();
    run(async {
        let ([_, stdout, stderr], copying) = started("", path.to_str().unwrap(), "");
        let reader = std::fs::File::from(open_fifo(&path, true, false).unwrap());
        std::fs::File::from(stdout).write_all(b"last words\n").unwrap();
        drop(stderr);
        let drained = tokio::spawn(copying.drain());
        copied(&reader).await;
        assert!(!drained.is_finished(), "it was not waited for");
        // The end comes while the deletion waits, not after it.
        let begin = Instant::now();
        let flags = rustix::fs::fcntl_getfl(&reader).unwrap();
        rustix::fs::fcntl_setfl(&reader, flags - rustix::fs::OFlags::NONBLOCK).unwrap();
        let read = tokio::task::spawn_blocking(move || std::io::read_to_string(reader).unwrap());
        assert_eq!(read.await.unwrap(), "last words\n");
        assert!(drained.await.unwrap());
        assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    });
}

/// Whether an exit is reported, once all tasks that could report it have run.
async fn is_reported(reported: &tokio::task::JoinHandle<bool>) -> bool {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    reported.is_finished()
}

#[test]
fn exit_event_waits_until_output_is_read() {
    let (_directory, path) = fifo();
    // Other processes may keep the output open.
    for orphan in [false, true] {
        run(async {
            let ([_, stdout, _], mut copying) = started("", path.to_str().unwrap(), "");
            let mut reader = std::fs::File::from(open_fifo(&path, true, false).unwrap());
            let kept = orphan.then(|| stdout.try_clone().unwrap());
            std::fs::File::from(stdout).write_all(b"words\n").unwrap();
            let reported = tokio::spawn(copying.process_exited());
            copied(&reader).await;
            assert!(!is_reported(&reported).await, "the exit was reported before");
            let mut bytes = [0; 32];
            let count = reader.read(&mut bytes).unwrap();
            assert_eq!(&bytes[..count], b"words\n");
            assert!(reported.await.unwrap(), "all was read");
            drop(kept);
            assert!(copying.drain().await);
        });
    }
}

#[test]
fn exit_event_waits_for_no_absent_reader_and_no_output_of_orphans() {
    let (_directory, path) = fifo();
    let (_other, silent) = fifo();
    run(async {
        let ([_, stdout, stderr], mut copying) = started("", path.to_str().unwrap(), silent.to_str().unwrap());
        std::fs::File::from(stdout).write_all(b"words\n").unwrap();
        assert!(copying.process_exited().await, "it was waited for");
        assert_eq!(
            std::fs::read_dir("/proc/self/fd")
                .unwrap()
                .flatten()
                .filter(|fd| { std::fs::read_link(fd.path()).is_ok_and(|link| link == silent) })
                .count(),
            1,
            "the other is copied still"
        );
        drop(stderr);
    });
}

#[test]
fn exit_event_is_published_though_a_reader_does_not_read() {
    let (_directory, path) = fifo();
    run(async {
        let ([_, stdout, _], mut copying) = started("", path.to_str().unwrap(), "");
        let reader = open_fifo(&path, true, false).unwrap();
        std::fs::File::from(stdout).write_all(b"words\n").unwrap();
        let reported = tokio::time::timeout(DEADLINE, copying.process_exited()).await;
        assert!(!reported.expect("the exit is reported"), "something was left");
        copied(reader).await;
    });
}

#[test]
fn exit_event_is_published_when_the_output_is_in_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let address = format!("file://{}", path.display());
    run(async {
        let ([_, stdout, stderr], mut copying) = started("", &address, &address);
        let text = "x".repeat(60_000);
        std::fs::File::from(stdout).write_all(text.as_bytes()).unwrap();
        assert!(copying.process_exited().await);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        drop(stderr);
    });
}

#[test]
fn a_reader_that_is_there_gets_the_end_before_a_deletion() {
    let (_directory, path) = fifo();
    run(async {
        let ([_, stdout, _], copying) = started("", path.to_str().unwrap(), "");
        let reader = path.clone();
        let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(reader));
        std::fs::File::from(stdout).write_all(b"words\n").unwrap();
        let text = tokio::time::timeout(DEADLINE, read).await.expect("the end").unwrap();
        assert_eq!(text.unwrap(), "words\n");
        let begin = Instant::now();
        assert!(copying.drain().await);
        assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    });
}

#[test]
fn standard_input_ends_with_close_io_and_not_before() {
    let (_directory, path) = fifo();
    run(async {
        let ([stdin, _, _], mut copying) = started(path.to_str().unwrap(), "", "");
        for text in ["one", "two"] {
            // Each writer closes the FIFO again.
            std::fs::OpenOptions::new().write(true).open(&path).unwrap().write_all(text.as_bytes()).unwrap();
        }
        let read = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            std::fs::File::from(stdin).read_to_string(&mut text).unwrap();
            text
        });
        tokio::task::yield_now().await;
        assert!(!read.is_finished());
        copying.close_stdin();
        assert_eq!(tokio::time::timeout(DEADLINE, read).await.unwrap().unwrap(), "onetwo");
    });
}

#[test]
fn standard_input_is_opened_by_the_start_of_the_process() {
    let (_directory, path) = fifo();
    run(async {
        let opened = Opened::open(&addresses(path.to_str().unwrap(), "", ""), &owner()).unwrap();
        let (_streams, prepared) = opened.split().unwrap();
        // fifo(7): a writer that does not block needs a reader.
        assert_eq!(open_fifo(&path, false, true).unwrap_err().raw_os_error(), Some(libc::ENXIO));
        let mut copying = prepared.start(None, &Arc::default()).unwrap();
        assert_eq!(open_fifo(&path, false, true).unwrap_err().raw_os_error(), Some(libc::ENXIO));
        copying.open_stdin().unwrap();
        copying.open_stdin().unwrap();
        open_fifo(&path, false, true).unwrap();
    });
}

#[test]
fn standard_input_that_is_closed_before_it_is_opened_ends() {
    let (_directory, path) = fifo();
    run(async {
        let opened = Opened::open(&addresses(path.to_str().unwrap(), "", ""), &owner()).unwrap();
        let (streams, prepared) = opened.split().unwrap();
        let Streams::Fds([stdin, ..]) = streams else { panic!("no fds") };
        let mut copying = prepared.start(None, &Arc::default()).unwrap();
        copying.close_stdin();
        copying.open_stdin().unwrap();
        let read = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            std::fs::File::from(stdin).read_to_string(&mut text).unwrap();
            text
        });
        assert_eq!(tokio::time::timeout(DEADLINE, read).await.unwrap().unwrap(), "");
    });
}

#[test]
fn standard_input_ends_with_close_io_though_a_writer_stays() {
    let (_directory, path) = fifo();
    run(async {
        let ([stdin, _, _], mut copying) = started(path.to_str().unwrap(), "", "");
        let mut stays = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        stays.write_all(&[b'x'; 50_000]).unwrap();
        copying.close_stdin();
        let read = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            std::fs::File::from(stdin).read_to_string(&mut text).unwrap();
            text
        });
        let text = tokio::time::timeout(DEADLINE, read).await.unwrap().unwrap();
        assert_eq!(text.len(), 50_000);
        drop(stays);
    });
}

#[test]
fn a_file_is_appended_to_by_both_outputs() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deep/log");
    std::fs::create_dir(directory.path().join("deep")).unwrap();
    std::fs::write(&path, "old ").unwrap();
    let address = format!("file://{}", path.display());
    run(async {
        let ([_, stdout, stderr], copying) = started("", &address, &address);
        std::fs::File::from(stdout).write_all(&[b'o'; 100_000][..60_000]).unwrap();
        std::fs::File::from(stderr).write_all(b"e").unwrap();
        assert!(copying.drain().await);
    });
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("old ") && text.len() == 60_005 && text.contains('e'), "{}", text.len());
}

#[test]
fn draining_ends_though_another_process_keeps_the_stream() {
    let (_directory, path) = fifo();
    run(async {
        let timeouts = OutputTimeouts { delete: Duration::from_millis(50), ..OutputTimeouts::default() };
        let (streams, copying) = started_for(&Owner { timeouts, ..owner() }, "", path.to_str().unwrap(), "");
        let _reader = open_fifo(&path, true, false).unwrap();
        let start = Instant::now();
        assert!(!copying.drain().await);
        assert!(start.elapsed() < Duration::from_secs(5));
        drop(streams);
    });
}

#[test]
fn a_terminal_s_master_is_copied_both_ways() {
    let directory = tempfile::tempdir().unwrap();
    let (input, output) = (directory.path().join("in"), directory.path().join("out"));
    make_fifo(&input);
    make_fifo(&output);
    run(async {
        let mut addresses = addresses(input.to_str().unwrap(), output.to_str().unwrap(), "");
        addresses.terminal = true;
        let (streams, prepared) = Opened::open(&addresses, &owner()).unwrap().split().unwrap();
        assert!(matches!(streams, Streams::Terminal));
        let pty = nix::pty::openpty(None, None).unwrap();
        let mut copying = prepared.start(Some(pty.master), &Arc::default()).unwrap();
        copying.open_stdin().unwrap();
        // Opened before the copying ends, which removes the FIFO's content.
        let mut fifo = std::fs::File::open(output).unwrap();
        copying.resize(7, 33).unwrap();
        let size = rustix::termios::tcgetwinsize(&pty.slave).unwrap();
        assert_eq!((size.ws_row, size.ws_col), (7, 33));
        std::fs::OpenOptions::new().write(true).open(&input).unwrap().write_all(b"typed\n").unwrap();
        let mut slave = std::fs::File::from(pty.slave);
        assert!(slave.as_raw_fd() > 2);
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = [0; 32];
            let count = slave.read(&mut bytes).unwrap();
            slave.write_all(b"answer").unwrap();
            String::from_utf8_lossy(&bytes[..count]).into_owned()
        });
        assert_eq!(read.await.unwrap(), "typed\n");
        let text = tokio::task::spawn_blocking(move || {
            let (mut text, mut bytes) = (String::new(), [0; 64]);
            while !text.contains("answer") {
                let count = fifo.read(&mut bytes).unwrap();
                text.push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
            text
        });
        // The echo comes first, with its newline translated.
        assert_eq!(tokio::time::timeout(DEADLINE, text).await.unwrap().unwrap(), "typed\r\nanswer");
        assert!(copying.drain().await);
    });
}
