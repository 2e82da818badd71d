//! The probe as a hook: it records its input and its environment.
//!
//! `NAME record FILE [exit N] [look PATH]...`; the arguments after FILE are its exit code, and the paths whose existence it records.

use std::process::exit;

use brig_spec_tests::record::Record;

/// Records, and ends with the code that was asked for.
pub fn record(args: &[String]) {
    let Some(file) = args.get(2) else {
        eprintln!("probe: record wants a file");
        exit(2);
    };
    let (mut code, mut look) = (0, Vec::new());
    for pair in args[3..].chunks(2) {
        match pair {
            [word, value] if word == "exit" => code = value.parse().unwrap_or(2),
            [word, value] if word == "look" => look.push(value.clone()),
            other => {
                eprintln!("probe: record does not know {other:?}");
                exit(2);
            }
        }
    }
    if let Err(error) = Record::make(args.to_vec(), &look).and_then(|record| record.append(file)) {
        eprintln!("probe: {error:#}");
        exit(1);
    }
    if code != 0 {
        eprintln!("this hook was told to fail");
    }
    exit(code);
}

/// Blocks every signal and prints the name of each that arrives; ends after `last`.
pub fn signals(last: &str) {
    use nix::sys::signal::SigSet;
    let all = SigSet::all();
    if let Err(error) = all.thread_block() {
        eprintln!("probe: unable to block signals: {error}");
        exit(1);
    }
    println!("ready");
    loop {
        match all.wait() {
            Ok(signal) => {
                println!("{signal}");
                if signal.as_str() == last {
                    exit(0);
                }
            }
            Err(error) => {
                eprintln!("probe: sigwait: {error}");
                exit(1);
            }
        }
    }
}
