//! Decides whether sys/start.rs takes the place of glibc's libc-start.o: in a static binary at a fixed address, for
//! x86-64, beside a libc.a whose libc-start.o is the one that it was written for.

use std::collections::BTreeSet;
use std::env;
use std::process::{Command, Stdio};

/// Of a libc.a: the version, what its libc-start.o defines, and what that needs from elsewhere (nm's T, D, B, R and U).
/// Whatever is new in one that is not listed here would be left out, so it is not taken.
const RELEASE: &str = "release version 2.36";
const DEFINED: &[&str] = &[
    "__libc_start_main", "__libc_start_main_impl", "__x86_data_cache_size", "__x86_data_cache_size_half",
    "__x86_rep_movsb_stop_threshold", "__x86_rep_movsb_threshold", "__x86_rep_stosb_threshold", "__x86_shared_cache_size",
    "__x86_shared_cache_size_half", "__x86_shared_non_temporal_threshold", "__x86_string_control",
];
const NEEDED: &[&str] = &[
    "_GLOBAL_OFFSET_TABLE_", "__assert_fail", "__cxa_atexit", "__environ", "__fini_array_end", "__fini_array_start",
    "__init_array_end", "__init_array_start", "__libc_check_standard_fds", "__libc_early_init", "__libc_enable_secure",
    "__libc_fatal", "__libc_init_first", "__libc_setup_tls", "__libc_stack_end", "__nptl_deallocate_tsd",
    "__nptl_nthreads", "__preinit_array_end", "__preinit_array_start", "__tunable_get_val", "__tunable_set_val",
    "__tunables_init", "_dl_aux_init", "_dl_debug_initialize", "_dl_hwcap", "_dl_minsigstacksize", "_dl_platform",
    "_dl_random", "_dl_relocate_static_pie", "_dl_tunable_set_hwcaps", "_dl_x86_cpu_features", "_fini", "_init",
    "_setjmp", "exit",
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    println!("cargo::rustc-check-cfg=cfg(own_start)");
    if !is_static() {
        return;
    }
    match known() {
        Ok(()) => println!("cargo::rustc-cfg=own_start"),
        Err(reason) => println!("cargo::warning=brig is linked with glibc's own start, which costs up to a millisecond \
                                 per command in a virtual machine: {reason}"),
    }
}

/// Whether the target and the flags are those of `make build`.
fn is_static() -> bool {
    let value = |name: &str| env::var(name).unwrap_or_default();
    let feature = value("CARGO_CFG_TARGET_FEATURE").split(',').any(|feature| feature == "crt-static");
    let fixed = value("CARGO_ENCODED_RUSTFLAGS").contains("relocation-model=static");
    let target = (value("CARGO_CFG_TARGET_ARCH"), value("CARGO_CFG_TARGET_OS"), value("CARGO_CFG_TARGET_ENV"));
    feature && fixed && target == ("x86_64".to_owned(), "linux".to_owned(), "gnu".to_owned())
}

/// Whether the libc.a that the linker will take is the one that start.rs knows; else what is different.
fn known() -> Result<(), String> {
    let linker = env::var("RUSTC_LINKER").unwrap_or_else(|_| "cc".to_owned());
    let archive = output(Command::new(linker).arg("-print-file-name=libc.a"))?;
    let archive = String::from_utf8_lossy(&archive).trim().to_owned();
    println!("cargo::rerun-if-changed={archive}");
    let version = output(Command::new("ar").args(["p", &archive, "version.o"]))?;
    if !version.windows(RELEASE.len()).any(|part| part == RELEASE.as_bytes()) {
        return Err(format!("{archive} is not of glibc's {RELEASE}"));
    }
    let listing = output(Command::new("nm").arg(&archive).stderr(Stdio::null()))?;
    let listing = String::from_utf8_lossy(&listing);
    let lines: Vec<&str> =
        listing.lines().skip_while(|line| *line != "libc-start.o:").skip(1).take_while(|line| !line.is_empty()).collect();
    let of = |kinds: &str| -> BTreeSet<&str> {
        let kind_and_name = lines.iter().filter_map(|line| {
            let mut words = line.split_whitespace().rev();
            Some((words.next()?, words.next()?))
        });
        kind_and_name.filter(|(_, kind)| kinds.contains(kind)).map(|(name, _)| name).collect()
    };
    let same = |what: &str, found: BTreeSet<&str>, expected: &[&str]| {
        let expected: BTreeSet<&str> = expected.iter().copied().collect();
        let difference: Vec<_> = found.symmetric_difference(&expected).copied().collect();
        if difference.is_empty() { Ok(()) } else { Err(format!("libc-start.o of {archive} {what}: {}", difference.join(", "))) }
    };
    same("defines other symbols than the one that is known", of("TDBC"), DEFINED)?;
    same("needs other symbols than the one that is known", of("U"), NEEDED)
}

fn output(command: &mut Command) -> Result<Vec<u8>, String> {
    let done = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if done.status.success() { Ok(done.stdout) } else { Err(format!("{command:?}: {}", done.status)) }
}
