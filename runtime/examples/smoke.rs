use brig::engine::*;
fn main() {
    if brig::launch::is_init() { std::process::exit(brig::launch::init::main()) }
    let a: Vec<String> = std::env::args().collect();
    let e = Engine::new("/run/brigtest".into(), Default::default());
    let r = match a[1].as_str() {
        "create" => e.create(&a[2], CreateOptions{bundle:a[3].clone().into(), ..Default::default()}).map(|l| println!("pid {}", l.pid)),
        "run" => e.run(&a[2], CreateOptions{bundle:a[3].clone().into(), ..Default::default()}).map(|l| { use std::os::fd::AsFd; println!("exit {:?}", brig::sys::process::wait(l.pidfd.as_fd())); e.delete(&a[2], false).unwrap(); }),
        "exec" => e.exec(&a[2], ExecOptions{args:a[3..].to_vec(), ..Default::default()}).map(|l| {use std::os::fd::AsFd; println!("exit {:?}", brig::sys::process::wait(l.pidfd.as_fd()))}),
        "start" => e.start(&a[2]),
        "kill" => e.kill(&a[2], 9, false),
        "delete" => e.delete(&a[2], a.len()>3),
        "pause" => e.pause(&a[2]), "resume" => e.resume(&a[2]),
        "ps" => e.ps(&a[2]).map(|p| println!("{p:?}")),
        "list" => e.list().map(|s| println!("{s:?}")),
        _ => panic!(),
    };
    if let Err(x) = r { eprintln!("error: {x} [{:?}]", x.kind()); std::process::exit(1) }
}
