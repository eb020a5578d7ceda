//! The machine and the moment of a measurement, for those who read its report.

use std::time::{SystemTime, UNIX_EPOCH};

use geb::cpus::Cpus;

use crate::settings;
use geb_eval::compare::result::Machine;

/// This machine; `isa` is the level of the kernels.
pub fn this(isa: &str) -> Machine {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let memory = read("/proc/meminfo");
    let kilobytes = memory
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"))
        .and_then(|n| n.trim().parse::<u64>().ok());
    let system = format!(
        "{} {} {}",
        std::env::consts::OS,
        read("/proc/sys/kernel/osrelease").trim(),
        std::env::consts::ARCH
    );
    Machine {
        cpu: settings::machine(&Cpus::read(std::path::Path::new("/"))),
        isa: isa.to_owned(),
        system,
        memory_bytes: kilobytes.map(|k| k * 1024),
    }
}

/// The command line, quoted for a shell where needed.
pub fn command() -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=,:+@%".contains(c);
    let quote = |word: String| {
        if !word.is_empty() && word.chars().all(plain) {
            word
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    };
    let words = std::env::args_os().skip(1);
    let words = words.map(|w| quote(w.to_string_lossy().into_owned()));
    std::iter::once("geb-run".to_owned())
        .chain(words)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Now in UTC: `2026-11-22 08:30`.
pub fn date() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    date_of(now.map_or(0, |d| d.as_secs()))
}

/// Seconds since 1970 as a date of the Gregorian calendar.
fn date_of(seconds: u64) -> String {
    let (mut days, minutes) = (seconds / 86_400, seconds / 60 % 1440);
    let leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= months[month] {
        days -= months[month];
        month += 1;
    }
    format!(
        "{year}-{:02}-{:02} {:02}:{:02}",
        month + 1,
        days + 1,
        minutes / 60,
        minutes % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(date_of(0), "1970-01-01 00:00");
        assert_eq!(date_of(951_782_399), "2000-02-28 23:59");
        assert_eq!(date_of(951_868_799), "2000-02-29 23:59");
        assert_eq!(date_of(1_795_336_200), "2026-11-22 08:30");
    }
}
