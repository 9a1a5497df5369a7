//! Memory and processors that are asked for but that the machine may not have.

use crate::error::{Error, Result};

/// The product of `lengths`, where it is the size of something that memory can address.
///
/// # Errors
/// [`Error::Invalid`] naming `what` where `lengths` elements of `T` are more than that.
pub(crate) fn count<T>(what: &str, lengths: &[usize]) -> Result<usize> {
    let count = lengths.iter().try_fold(1usize, |product, length| product.checked_mul(*length));
    let bytes = count.and_then(|count| count.checked_mul(size_of::<T>()));
    match (count, bytes) {
        (Some(count), Some(bytes)) if bytes <= isize::MAX as usize => Ok(count),
        _ => Err(too_large(what, lengths)),
    }
}

/// As many copies of `value` as `lengths` multiply to.
///
/// # Errors
/// [`Error::Invalid`] naming `what` where the system does not give the memory, rather than an abort.
pub(crate) fn filled<T: Clone>(what: &str, lengths: &[usize], value: T) -> Result<Vec<T>> {
    let count = count::<T>(what, lengths)?;
    let mut memory = Vec::new();
    memory.try_reserve_exact(count).map_err(|_| too_large(what, lengths))?;
    memory.resize(count, value);
    Ok(memory)
}

/// The processor's threads.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Bytes of memory that may be used without others being pushed out: what the system says is available, or
/// what is left of the process's control group where that is less. `None` where the system says nothing.
pub(crate) fn available() -> Option<u64> {
    let read = |file: &str| std::fs::read_to_string(file).ok();
    let system = field(&read("/proc/meminfo")?, "MemAvailable:").map(|kib| kib << 10)?;
    let number = |file: &str| read(file)?.trim().parse::<u64>().ok();
    let group = number("/sys/fs/cgroup/memory.max").map(|most| {
        // Files that the system keeps in memory, but would give up, are counted as used.
        let files = read("/sys/fs/cgroup/memory.stat").and_then(|stat| field(&stat, "file"));
        let used = number("/sys/fs/cgroup/memory.current").unwrap_or(0).saturating_sub(files.unwrap_or(0));
        most.saturating_sub(used)
    });
    Some(group.map_or(system, |group| group.min(system)))
}

/// The machine in words: its processor, threads, memory and system, as far as the system says.
pub(crate) fn in_words() -> String {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let cpu = cpu.map_or("a processor", |(_, name)| name.trim());
    let memory = field(&read("/proc/meminfo"), "MemTotal:");
    let memory = memory.map_or(String::new(), |kib| format!(", {:.0} GiB", kib as f64 / f64::from(1 << 20)));
    let (system, kind) = (std::env::consts::OS, std::env::consts::ARCH);
    format!("{cpu}, {} threads{memory}, {system} {kind}", threads())
}

/// The time, such as `2022-10-03 14:05:06 UTC`.
pub(crate) fn now() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    utc(since.map_or(0, |since| since.as_secs()))
}

/// The time that lies so many seconds after the beginning of 1970.
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March end with the day that not all of them have (Hinnant, "chrono-compatible
    // low-level date algorithms", civil_from_days).
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + 400 * era + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// The number after a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let values = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(name)).then(|| words.next())?
    });
    values.filter_map(|value| value.parse().ok()).next()
}

fn too_large(what: &str, lengths: &[usize]) -> Error {
    let lengths: Vec<String> = lengths.iter().map(usize::to_string).collect();
    let got = format!("{} numbers", lengths.join(" x "));
    Error::invalid(what, "what fits into this machine's memory", got, "ask for less")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_tables_are_read_by_name() {
        let text = "MemTotal:  9 kB\nMemAvailable:   12345 kB\nfile 7\nfile_mapped 8\n";
        assert_eq!((field(text, "MemAvailable:"), field(text, "file")), (Some(12_345), Some(7)));
        assert_eq!((field(text, "mapped"), field("file x", "file")), (None, None));
        if cfg!(target_os = "linux") {
            assert!(available().is_some_and(|bytes| bytes > 0));
        }
    }

    /// As `date --utc --date=@SECONDS` has them.
    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, time) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_868_799, "2000-02-29 23:59:59 UTC"),
            (1_664_805_906, "2022-10-03 14:05:06 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(utc(seconds), time);
        }
        assert!(now() > utc(1_600_000_000) && in_words().contains("threads"));
    }

    #[cfg(target_pointer_width = "64")]
    #[test]
    fn what_no_memory_holds_is_refused_and_not_tried() {
        assert_eq!(filled("x", &[2, 3], 7u8).unwrap(), [7; 6]);
        assert!(filled("x", &[0, usize::MAX], 7u8).unwrap().is_empty());
        for lengths in [&[usize::MAX][..], &[1 << 40, 1 << 40], &[1 << 60], &[1 << 47]] {
            let message = filled("the images", lengths, 0f32).unwrap_err().to_string();
            assert!(message.starts_with("the images: expected what fits"), "{message}");
        }
        assert!(count::<f64>("x", &[isize::MAX as usize]).is_err());
    }
}
