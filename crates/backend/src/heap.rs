//! Keeping the heap small.
//!
//! Left to itself, glibc gives every thread a heap of its own and, after the first password was hashed, keeps blocks of
//! 19 MiB in them for ever. Measured after the same load of pushes and pulls: 86 MB without this, 21 MB with it.
//!
//! What is freed in the middle of a heap stays there, too, for as long as something behind it is in use. After a flood of
//! small blocks that can be half a gigabyte. So what is unused is given back from time to time, soon after the memory in use
//! has changed and seldom while it has not.

use std::time::Duration;

/// Heaps that threads share.
const ARENAS: i32 = 4;

/// Blocks of this size and above, in bytes, are fetched from the kernel one by one and given back at once.
const MAPPED_BYTES_MIN: i32 = 256 << 10;

/// What may lie unused at the end of a heap, in bytes.
const UNUSED_BYTES_MAX: i32 = 1 << 20;

/// How often it is looked whether there is something to give back.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Looks that are left out at most, if the last ones found nothing and nothing seems to have changed.
const LOOKS_LEFT_OUT_MAX: u32 = 31;

/// A change of the memory in use, in bytes, that is worth a look, and what must have been given back for another.
const CHANGE_BYTES: u64 = 8 << 20;

/// Sets the allocator's limits. Called first thing, while there is one thread.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "glibc takes these settings through mallopt only")]
pub(crate) fn bound() {
    for (parameter, value) in
        [(libc::M_ARENA_MAX, ARENAS), (libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN), (libc::M_TRIM_THRESHOLD, UNUSED_BYTES_MAX)]
    {
        // SAFETY: mallopt takes two numbers and changes nothing but the allocator's settings; no other thread runs yet.
        let accepted = unsafe { libc::mallopt(parameter, value) };
        debug_assert_eq!(accepted, 1);
    }
}

/// Gives back, for as long as the process runs, what the heaps have and nobody uses.
///
/// # Errors
/// If there can be no thread for it.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn keep_trimmed() -> std::io::Result<()> {
    let work = || {
        let mut looks = Looks::default();
        loop {
            std::thread::sleep(LOOK_INTERVAL);
            if looks.is_due(resident_bytes()) {
                trim();
                looks.looked(resident_bytes());
            }
        }
    };
    std::thread::Builder::new().name("berth-heap".into()).spawn(work).map(drop)
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "glibc has no other way to be told")]
fn trim() {
    // SAFETY: malloc_trim takes a number, locks what it touches, and gives back pages that hold no allocation.
    unsafe { libc::malloc_trim(0) };
}

/// The memory of this process that is there, in bytes; none if the kernel does not tell.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn resident_bytes() -> u64 {
    let told = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = told.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    pages * rustix::param::page_size() as u64
}

/// When to look next.
#[derive(Default)]
struct Looks {
    /// What was there when it was last asked.
    bytes: u64,
    left_out: u32,
    leave_out: u32,
}

impl Looks {
    fn is_due(&mut self, bytes: u64) -> bool {
        let has_changed = self.bytes.abs_diff(bytes) >= CHANGE_BYTES;
        if has_changed {
            self.leave_out = 0;
        }
        if has_changed || self.left_out >= self.leave_out {
            self.bytes = bytes;
            return true;
        }
        self.left_out += 1;
        false
    }

    /// So many bytes are there after something may have been given back.
    fn looked(&mut self, bytes: u64) {
        let gave_back = self.bytes.saturating_sub(bytes) >= CHANGE_BYTES;
        self.leave_out = if gave_back { 0 } else { (self.leave_out * 2 + 1).min(LOOKS_LEFT_OUT_MAX) };
        (self.bytes, self.left_out) = (bytes, 0);
    }
}

/// Other C libraries have no such settings and less need of them.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn bound() {
    let _ = (ARENAS, MAPPED_BYTES_MIN, UNUSED_BYTES_MAX);
}

/// Other C libraries give back what they have by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn keep_trimmed() -> std::io::Result<()> {
    let _ = (LOOK_INTERVAL, Looks::default().is_due(0));
    Looks::default().looked(0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn looks_become_rare_while_nothing_changes_and_begin_anew_when_something_does() {
        let mut looks = Looks::default();
        let mut count = |bytes: u64, times: u32| {
            let due = |_: &u32| {
                let due = looks.is_due(bytes);
                if due {
                    looks.looked(bytes);
                }
                due
            };
            (0..times).filter(due).count()
        };
        assert!((5..12).contains(&count(100 * MIB, 100)));
        assert_eq!(count(200 * MIB, 1), 1);
        // At least every few minutes, even so.
        assert!(count(200 * MIB, 320) >= 9);
    }

    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn what_is_freed_between_what_is_kept_is_given_back() {
        let before = resident_bytes();
        assert!(before > MIB);
        let mut blocks: Vec<Vec<u8>> = (0..20_000).map(|i| vec![i as u8; 8 << 10]).collect();
        let kept: Vec<Vec<u8>> = blocks.drain(..).enumerate().filter_map(|(i, block)| (i % 100 == 0).then_some(block)).collect();
        let full = resident_bytes();
        trim();
        let after = resident_bytes();
        assert!(full >= after + 100 * MIB, "{full} {after}");
        assert_eq!(kept.iter().map(Vec::len).sum::<usize>(), 200 * (8 << 10));
    }
}
