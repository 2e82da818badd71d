//! A static program that runs inside containers and prints what it finds; it asserts nothing.
//!
//! The program is linked statically and needs no other file, so that an image can consist of it alone:
//! `probe facts | try OPERATION WORD... [, OPERATION ...] | status | hog MIB | fork N | crowd N | spin | wait |
//! burst BYTES | serve PORT | echo PORT | fetch ADDRESS | reach ADDRESS | exit N | env NAME | record FILE ... |
//! signals LAST | notify LINE... | raise N | watch | stray |
//! hold DIRECTORY | hunt MARKER CAPABILITIES`.
#![forbid(unsafe_code)]

mod attempt;
mod foreign;
mod hunt;
mod record;

use std::io::{Read, Write};
use std::process::{Command, exit};

use brig_spec_tests::facts::Facts;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let verb = args.get(1).map_or("status", String::as_str);
    match verb {
        "facts" => or_fail(facts()),
        "try" => attempt::all(&args[2..]),
        "status" => print!("{}", std::fs::read_to_string("/proc/self/status").unwrap_or_default()),
        "hog" => hog(number(&args)),
        "fork" => fork(number(&args)),
        "crowd" => crowd(number(&args)),
        "spin" => loop {
            std::hint::spin_loop();
        },
        "wait" => loop {
            std::thread::park();
        },
        "burst" => burst(number(&args)),
        "serve" => serve(number(&args)),
        "echo" => echo(number(&args)),
        "fetch" => fetch(&args[2]),
        "reach" => exit(i32::from(std::net::TcpStream::connect(&args[2]).is_err())),
        "env" => println!("{}", std::env::var(&args[2]).unwrap_or_default()),
        "notify" => notify(&args[2..]),
        "raise" => raise(number(&args)),
        "exit" => exit(number(&args)),
        "watch" => or_fail(foreign::watch()),
        "hunt" => or_fail(hunt::hunt(&args[2], &args[3])),
        "hold" => or_fail(foreign::hold(&args[2])),
        "stray" => or_fail(foreign::stray()),
        "record" => record::record(&args),
        "signals" => record::signals(args.get(2).map_or("", String::as_str)),
        other => {
            eprintln!("probe: unknown verb {other}");
            exit(2);
        }
    }
}

/// The number after the verb; 0 without one.
fn number<T: std::str::FromStr + Default>(args: &[String]) -> T {
    args.get(2).and_then(|word| word.parse().ok()).unwrap_or_default()
}

fn or_fail(done: anyhow::Result<()>) {
    if let Err(error) = done {
        eprintln!("probe: {error:#}");
        exit(1);
    }
}

/// Prints all that is found, as JSON.
fn facts() -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(&Facts::find()?)?);
    Ok(())
}

/// Takes and touches memory, a MiB at a time, and says when it has it all.
fn hog(mib: usize) {
    let mut held: Vec<Vec<u8>> = Vec::new();
    for _ in 0..mib {
        held.push(vec![1; 1 << 20]);
    }
    println!("holds {} MiB", std::hint::black_box(&held).len());
}

/// Starts children until the kernel says no, and prints how far it came; then ends them all.
fn fork(wanted: usize) {
    let mut children = Vec::new();
    for count in 0..wanted {
        match Command::new("/proc/self/exe").arg("wait").spawn() {
            Ok(child) => children.push(child),
            Err(error) => {
                println!("refused after {count}: {error}");
                break;
            }
        }
    }
    println!("started {}", children.len());
    for mut child in children {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Starts that many children, as far as the kernel lets it, and keeps them.
fn crowd(wanted: usize) -> ! {
    let children: Vec<_> = (0..wanted).map_while(|_| Command::new("/proc/self/exe").arg("wait").spawn().ok()).collect();
    println!("started {}", children.len());
    loop {
        std::thread::park();
    }
}

/// Writes that many bytes to stdout, in lines of 64.
fn burst(bytes: usize) {
    let block = [b'x'; 63].iter().chain(b"\n").copied().collect::<Vec<u8>>().repeat(1024);
    let mut out = std::io::stdout().lock();
    let mut left = bytes;
    while left > 0 {
        let take = left.min(block.len());
        if out.write_all(&block[..take]).is_err() {
            exit(1);
        }
        left -= take;
    }
}

/// Answers every HTTP request on the port with one line.
fn serve(port: u16) {
    let listener = std::net::TcpListener::bind(("0.0.0.0", port)).unwrap_or_else(|error| {
        eprintln!("probe: bind port {port}: {error}");
        exit(1)
    });
    println!("listening");
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let mut request = [0; 1024];
        let _ = stream.read(&mut request);
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nprobe\n");
    }
}

/// Prints what a server at the address answers to one HTTP request.
fn fetch(address: &str) {
    let answer = std::net::TcpStream::connect(address).and_then(|mut stream| {
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map(|_| text)
    });
    match answer {
        Ok(text) => print!("{}", text.split("\r\n\r\n").last().unwrap_or_default()),
        Err(error) => {
            eprintln!("probe: {address}: {error}");
            exit(1);
        }
    }
}

/// Echoes every byte of each connection to the port, with a thread for each connection.
fn echo(port: u16) {
    let listener = std::net::TcpListener::bind(("0.0.0.0", port)).unwrap_or_else(|error| {
        eprintln!("probe: bind port {port}: {error}");
        exit(1)
    });
    println!("listening");
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
    }
}

/// Sends the lines to the service manager (sd_notify(3)), and then waits.
fn notify(lines: &[String]) {
    let place = std::env::var("NOTIFY_SOCKET").unwrap_or_default();
    let socket = std::os::unix::net::UnixDatagram::unbound();
    if let Err(error) = socket.and_then(|socket| socket.send_to(lines.join("\n").as_bytes(), &place)) {
        eprintln!("probe: {place:?}: {error}");
        exit(1);
    }
    loop {
        std::thread::park();
    }
}

/// Ends by this signal, unless it is ignored.
fn raise(number: usize) {
    let signal = i32::try_from(number).ok().and_then(|number| nix::sys::signal::Signal::try_from(number).ok());
    let Some(signal) = signal else { exit(2) };
    if let Err(error) = nix::sys::signal::raise(signal) {
        eprintln!("probe: raise: {error}");
    }
    exit(1);
}
