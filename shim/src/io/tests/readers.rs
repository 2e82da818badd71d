//! Tests of readers of outputs that close, that reopen, and that do not read.

use super::*;

#[test]
fn an_exit_and_a_deletion_wait_for_no_reader_that_is_gone() {
    let (_directory, path) = fifo();
    let address = path.to_str().unwrap();
    // A full FIFO, and an output that others keep open, hide the end of the output.
    for (full, orphan, both) in [(true, false, false), (true, true, true), (false, true, false), (false, false, true)] {
        run(async {
            let reader = open_fifo(&path, true, false).unwrap();
            let ([_, stdout, stderr], mut copying) = started("", address, if both { address } else { "" });
            drop(reader);
            let kept = orphan.then(|| stdout.try_clone().unwrap());
            if full {
                let mut filler = std::fs::File::from(open_fifo(&path, false, true).unwrap());
                while filler.write(&[b'x'; 4096]).is_ok() {}
            }
            std::fs::File::from(stdout).write_all(b"words\n").unwrap();
            drop(stderr);
            let begin = Instant::now();
            assert!(copying.process_exited().await, "{full} {orphan} {both}");
            copying.drain().await;
            assert!(begin.elapsed() < SOON, "{full} {orphan} {both}: {:?}", begin.elapsed());
            drop(kept);
        });
    }
}

#[test]
fn an_exit_and_a_deletion_stop_waiting_for_a_reader_that_goes() {
    let (_directory, path) = fifo();
    for (orphan, deleted) in [(false, false), (true, false), (false, true), (true, true)] {
        run(async {
            let ([_, stdout, stderr], mut copying) = started("", path.to_str().unwrap(), "");
            let reader = open_fifo(&path, true, false).unwrap();
            let kept = orphan.then(|| stdout.try_clone().unwrap());
            std::fs::File::from(stdout).write_all(b"words\n").unwrap();
            drop(stderr);
            let begin = Instant::now();
            let reported = tokio::spawn(copying.process_exited());
            copied(&reader).await;
            assert!(!is_reported(&reported).await, "the exit waits for the reader");
            let drained = deleted.then(|| tokio::spawn(copying.drain()));
            drop(reader);
            assert!(reported.await.unwrap());
            if let Some(drained) = drained {
                drained.await.unwrap();
            }
            assert!(begin.elapsed() < SOON, "{orphan} {deleted}: {:?}", begin.elapsed());
            drop(kept);
        });
    }
}

#[test]
fn a_reader_that_comes_back_after_the_exit_gets_what_is_left() {
    let (_directory, path) = fifo();
    run(async {
        let ([_, stdout, stderr], mut copying) = started("", path.to_str().unwrap(), "");
        drop(open_fifo(&path, true, false).unwrap());
        let mut filler = std::fs::File::from(open_fifo(&path, false, true).unwrap());
        let mut expected = 0;
        while let Ok(count) = filler.write(&[b'x'; 4096]) {
            expected += count;
        }
        drop(filler);
        let text = vec![b'y'; 60_000];
        std::fs::File::from(stdout).write_all(&text).unwrap();
        drop(stderr);
        assert!(copying.process_exited().await);
        let reader = path.clone();
        let read = tokio::task::spawn_blocking(move || std::fs::read(reader).unwrap().len());
        let read = tokio::time::timeout(DEADLINE, read).await.expect("the end").unwrap();
        assert_eq!(read, expected + text.len());
        assert!(copying.drain().await);
    });
}

#[test]
fn an_unread_output_is_waited_for_as_long_as_the_options_say() {
    let (_directory, path) = fifo();
    let timeouts = OutputTimeouts { exit: Duration::from_millis(50), delete: Duration::from_millis(100) };
    run(async {
        let ([_, stdout, _], mut copying) = started_for(&Owner { timeouts, ..owner() }, "", path.to_str().unwrap(), "");
        let reader = open_fifo(&path, true, false).unwrap();
        std::fs::File::from(stdout.try_clone().unwrap()).write_all(b"words\n").unwrap();
        let begin = Instant::now();
        assert!(!copying.process_exited().await);
        assert!(!copying.drain().await);
        assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
        drop((reader, stdout));
    });
}
