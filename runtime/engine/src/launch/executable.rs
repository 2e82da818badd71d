//! The defects of a file that execve(2) refuses: its errno alone names neither a script's interpreter nor a loader.
//!
//! The file is examined before the seccomp filter is installed, which may forbid it, and the findings are reported only
//! after the kernel's refusal: binfmt_misc executes programs of other machines.

use std::ffi::{CStr, OsStr};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, Stat, StatVfsMountFlags};

/// The length of a file's start in which the kernel recognises the format (BINPRM_BUF_SIZE, linux/binfmts.h).
const HEADER_LEN: usize = 256;

/// The reason why the container's user may not execute the file, as a continuation of the text for EACCES.
pub(super) fn why_denied(path: &Path, stat: &Stat) -> String {
    let shown = path.display();
    let is_noexec = rustix::fs::statvfs(path).is_ok_and(|fs| fs.f_flag.contains(StatVfsMountFlags::NOEXEC));
    if is_noexec {
        return format!(": {shown} is on a file system that is mounted noexec");
    }
    match stat.st_mode & 0o111 {
        0 => format!(": {shown} has no execute permission (mode {:04o})", stat.st_mode & 0o7777),
        _ => String::new(),
    }
}

/// The defect that would prevent the execution of the file; `None` if none is found, or the file cannot be read.
pub(super) fn flaw(path: &CStr) -> Option<String> {
    let path = Path::new(OsStr::from_bytes(path.to_bytes()));
    // O_NONBLOCK prevents a wait for a FIFO's writer, if the file has become one.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut header = [0; HEADER_LEN];
    let count = file.read_at(&mut header, 0).ok()?;
    let header = &header[..count];
    if let Some(line) = header.strip_prefix(b"#!") {
        return script_flaw(path, line);
    }
    if header.starts_with(b"\x7fELF") {
        return elf_flaw(&file, header);
    }
    Some(format!("{} is no ELF program, and no script that begins with #! and an interpreter", path.display()))
}

fn script_flaw(path: &Path, line: &[u8]) -> Option<String> {
    let line = line.split(|byte| *byte == b'\n').next()?;
    let text = String::from_utf8_lossy(line);
    // The kernel takes a carriage return as part of the name.
    let name = text.trim_start_matches([' ', '\t']).split([' ', '\t', '\0']).next()?;
    if name.is_empty() {
        return Some(format!("{} names no interpreter after #!", path.display()));
    }
    let hint = if name.ends_with('\r') { " (its first line ends in a carriage return)" } else { "" };
    let shown = name.trim_end_matches('\r');
    unusable(Path::new(name)).map(|reason| format!("the interpreter {shown} of this script {reason}{hint}"))
}

/// The reason why an interpreter or loader cannot be executed.
fn unusable(path: &Path) -> Option<&'static str> {
    match rustix::fs::accessat(rustix::fs::CWD, path, Access::EXISTS, rustix::fs::AtFlags::empty()) {
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Some("is not in the container"),
        Err(_) => return Some("cannot be reached by the container's user"),
        Ok(()) => {}
    }
    let denied = rustix::fs::accessat(rustix::fs::CWD, path, Access::EXEC_OK, rustix::fs::AtFlags::EACCESS).is_err();
    denied.then_some("is not executable for the container's user")
}

/// The required fields of an ELF header (elf(5)).
struct Elf {
    machine: u16,
    program_headers: u64,
    entry_size: u16,
    entries: u16,
    is_64_bit: bool,
}

impl Elf {
    /// Parses a header; `None` if it is truncated, or of the other byte order.
    fn parse(header: &[u8]) -> Option<Elf> {
        const IS_64_BIT: u8 = 2;
        let is_little = *header.get(5)? == 1;
        if is_little != cfg!(target_endian = "little") {
            return None;
        }
        let is_64_bit = *header.get(4)? == IS_64_BIT;
        let short = |at: usize| Some(u16::from_ne_bytes(header.get(at..at + 2)?.try_into().ok()?));
        let (program_headers, sizes) = if is_64_bit {
            (u64::from_ne_bytes(header.get(32..40)?.try_into().ok()?), 54)
        } else {
            (u32::from_ne_bytes(header.get(28..32)?.try_into().ok()?).into(), 42)
        };
        Some(Elf {
            machine: short(18)?,
            program_headers,
            entry_size: short(sizes)?,
            entries: short(sizes + 2)?,
            is_64_bit,
        })
    }

    /// The path in PT_INTERP: the loader of a dynamically linked program.
    fn loader(&self, file: &File) -> io::Result<Option<PathBuf>> {
        const PT_INTERP: u32 = 3;
        /// No program has more entries.
        const MAX_ENTRIES: u16 = 64;
        let mut entry = [0; 56];
        for number in 0..self.entries.min(MAX_ENTRIES) {
            let at = self.program_headers + u64::from(number) * u64::from(self.entry_size);
            let length = if self.is_64_bit { 56 } else { 32 };
            file.read_exact_at(&mut entry[..length], at)?;
            let word = |at: usize| u32::from_ne_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]);
            let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
            if word(0) != PT_INTERP {
                continue;
            }
            let (offset, size) = if self.is_64_bit { (long(8), long(32)) } else { (word(4).into(), word(16).into()) };
            let mut path =
                vec![0; usize::try_from(size).unwrap_or(libc::PATH_MAX as usize).min(libc::PATH_MAX as usize)];
            let count = file.read_at(&mut path, offset)?;
            let end = path[..count].iter().position(|byte| *byte == 0).unwrap_or(count);
            return Ok(Some(PathBuf::from(String::from_utf8_lossy(&path[..end]).into_owned())));
        }
        Ok(None)
    }
}

fn elf_flaw(file: &File, header: &[u8]) -> Option<String> {
    let here = std::env::consts::ARCH;
    let Some(elf) = Elf::parse(header) else {
        return Some(format!("the program is of another byte order than this machine ({here})"));
    };
    let machine = match elf.machine {
        3 => "x86",
        8 => "mips",
        20 => "powerpc",
        21 => "powerpc64",
        22 => "s390x",
        40 => "arm",
        62 => "x86_64",
        183 => "aarch64",
        243 => "riscv",
        258 => "loongarch64",
        _ => "of an unknown kind",
    };
    let is_native = machine == here
        || matches!((machine, here), ("x86", "x86_64") | ("arm", "aarch64") | ("riscv", "riscv64" | "riscv32"));
    if !is_native {
        return Some(format!(
            "the program is for another machine, {machine} (ELF machine {}), and this one is {here}: use an image for {here}",
            elf.machine
        ));
    }
    let loader = elf.loader(file).ok()??;
    let reason = unusable(&loader)?;
    Some(format!("the loader {} of this dynamically linked program {reason}", loader.display()))
}
