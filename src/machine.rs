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
        _ => Err(too_large::<T>(what, lengths, available().unwrap_or(0))),
    }
}

/// As many copies of `value` as `lengths` multiply to.
///
/// # Errors
/// [`Error::Invalid`] naming `what` where that is more memory than is free, rather than an abort.
pub(crate) fn filled<T: Clone>(what: &str, lengths: &[usize], value: T) -> Result<Vec<T>> {
    let count = count::<T>(what, lengths)?;
    let bytes = (count * size_of::<T>()) as u64;
    if let Some(free) = shortage(bytes) {
        return Err(too_large::<T>(what, lengths, free));
    }
    let mut memory = Vec::new();
    memory.try_reserve_exact(count).map_err(|_| too_large::<T>(what, lengths, 0))?;
    memory.resize(count, value);
    Ok(memory)
}

/// Requests below this are not compared with what is free, which takes longer than to answer them.
const SMALL: u64 = 32 << 20;

/// The bytes that are free, where `bytes` are more than that.
pub(crate) fn shortage(bytes: u64) -> Option<u64> {
    if bytes < SMALL {
        return None;
    }
    available().filter(|free| bytes > *free)
}

/// Bytes as people read them.
pub(crate) fn in_words(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 1024.0 { format!("{mib:.0} MiB") } else { format!("{:.1} GiB", mib / 1024.0) }
}

/// The processor's threads.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Bytes of memory that may be used without others being pushed out: what the system says is available, or
/// what is left of the process's control groups or of its address space (`ulimit -v`) where that is less.
/// `None` where the system says nothing.
pub(crate) fn available() -> Option<u64> {
    let system = field(&read("/proc/meminfo")?, "MemAvailable:").map(|kib| kib << 10)?;
    let groups = read("/proc/self/cgroup").unwrap_or_default();
    let left = groups.lines().flat_map(left_of_group).chain(left_of_addresses());
    Some(left.fold(system, u64::min))
}

fn read(file: &str) -> Option<String> {
    std::fs::read_to_string(file).ok()
}

/// What is left of a control group and of those around it, for a line of `/proc/self/cgroup`.
fn left_of_group(line: &str) -> Vec<u64> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { return Vec::new() };
    // The second version has one tree for everything, the first one for each controller.
    let (root, most, used, files) = match controllers {
        "" => ("/sys/fs/cgroup", "memory.max", "memory.current", "file"),
        names if names.split(',').any(|name| name == "memory") => {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache")
        }
        _ => return Vec::new(),
    };
    let left = |group: &std::path::Path| {
        let group = format!("{root}{}", group.display());
        let number = |file: &str| read(&format!("{group}/{file}"))?.trim().parse::<u64>().ok();
        let most = number(most)?;
        // Files that the system keeps in memory, but would give up, are counted as used.
        let files = read(&format!("{group}/memory.stat")).and_then(|stat| field(&stat, files));
        Some(most.saturating_sub(number(used).unwrap_or(0).saturating_sub(files.unwrap_or(0))))
    };
    std::path::Path::new(path).ancestors().filter_map(left).collect()
}

/// What is left of the process's address space, where that is limited.
fn left_of_addresses() -> Option<u64> {
    let limits = read("/proc/self/limits")?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    let most: u64 = line.split_whitespace().next()?.parse().ok()?;
    let used = field(&read("/proc/self/status")?, "VmSize:")? << 10;
    Some(most.saturating_sub(used))
}

/// The machine in words: its processor, threads, memory and system, as far as the system says.
pub(crate) fn name() -> String {
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

/// The refusal of `lengths` elements of `T` where `free` bytes are free.
fn too_large<T>(what: &str, lengths: &[usize], free: u64) -> Error {
    let one = lengths.iter().skip(1).try_fold(size_of::<T>(), |product, length| product.checked_mul(*length));
    let fits = one.filter(|one| *one > 0).map_or(0, |one| free / one as u64);
    let lengths: Vec<String> = lengths.iter().map(usize::to_string).collect();
    let got = format!("{} numbers", lengths.join(" x "));
    let help = if fits > 0 { format!("at most {fits} fit") } else { "ask for less".to_owned() };
    Error::invalid(what, "what fits into this machine's free memory", got, help)
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
        assert!(now() > utc(1_600_000_000) && name().contains("threads"));
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

    /// The help names what fits: with as many bytes free as three images of 2 x 5 numbers take, three.
    #[test]
    fn what_fits_is_named() {
        let told = |free| too_large::<f32>("-n", &[9, 2, 5], free).to_string();
        assert!(told(120).ends_with("got 9 x 2 x 5 numbers; at most 3 fit"), "{}", told(120));
        assert!(told(39).ends_with("; ask for less"), "{}", told(39));
        let all = available().unwrap_or(u64::MAX);
        assert!(shortage(u64::MAX).is_some() || all == u64::MAX);
        assert_eq!(shortage(SMALL - 1), None);
        assert_eq!((in_words(5 << 20), in_words(3 << 30)), ("5 MiB".to_owned(), "3.0 GiB".to_owned()));
    }
}
