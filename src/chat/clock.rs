//! The local date and time, and Python's `strftime` for it.
//!
//! The zone is that of `TZ`, else of `/etc/localtime`: a zone file (TZif, RFC 9636), a name below
//! `/usr/share/zoneinfo`, or a rule as POSIX writes it (`CET-1CEST,M3.5.0,M10.5.0/3`).

use std::fmt::Write as _;
use std::io::Read;
use std::time::{SystemTime, UNIX_EPOCH};

/// A date and time of day, without a zone, in the Gregorian calendar.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// Seconds since 1970-01-01 UTC.
    epoch: i64,
    micro: u32,
    /// Days since 1970-01-01, local.
    days: i64,
    /// Seconds of the day, local.
    clock: i64,
}

/// Now, in local time.
pub(super) fn now() -> Moment {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let epoch = since.as_secs() as i64;
    Moment::new(
        epoch,
        since.subsec_micros(),
        offset(std::env::var("TZ").ok().as_deref(), epoch),
    )
}

/// Largest zone file that is read; real ones have 4 KiB.
const MAX_ZONE_BYTES: u64 = 1 << 20;

/// Seconds east of UTC at a time, for the value of `TZ`.
fn offset(zone: Option<&str>, epoch: i64) -> i64 {
    let read = |path: &str| {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path)
            .ok()
            .filter(|f| f.metadata().is_ok_and(|m| m.is_file()))?;
        file.take(MAX_ZONE_BYTES).read_to_end(&mut bytes).ok()?;
        in_file(&bytes, epoch)
    };
    let Some(zone) = zone else {
        return read("/etc/localtime").unwrap_or(0);
    };
    let name = zone.strip_prefix(':').unwrap_or(zone);
    let found = if name.starts_with('/') {
        read(name)
    } else if name.is_empty() || name.contains("..") {
        None
    } else {
        read(&format!("/usr/share/zoneinfo/{name}"))
    };
    found.or_else(|| in_rule(zone, epoch)).unwrap_or(0)
}

/// The offset that a zone file gives.
fn in_file(bytes: &[u8], epoch: i64) -> Option<i64> {
    let counts = |bytes: &[u8]| -> Option<[usize; 6]> {
        let words = bytes.get(20..44)?.as_chunks::<4>().0;
        Some(std::array::from_fn(|i| {
            u32::from_be_bytes(words[i]) as usize
        }))
    };
    let length = |[ut, std, leap, times, types, chars]: [usize; 6], wide: usize| {
        times * (wide + 1) + types * 6 + chars + leap * (wide + 4) + std + ut
    };
    if !bytes.starts_with(b"TZif") {
        return None;
    }
    let (data, counts, wide) = if bytes.get(4)? >= &b'2' {
        let second = bytes.get(44 + length(counts(bytes)?, 4)..)?;
        (second.get(44..)?, counts(second)?, 8)
    } else {
        (bytes.get(44..)?, counts(bytes)?, 4)
    };
    let [.., times, types, _] = counts;
    let time = |i: usize| -> Option<i64> {
        let at = data.get(i * wide..(i + 1) * wide)?;
        Some(if wide == 8 {
            i64::from_be_bytes(at.try_into().ok()?)
        } else {
            i32::from_be_bytes(at.try_into().ok()?).into()
        })
    };
    let offset_of = |kind: usize| -> Option<i64> {
        let at = times * (wide + 1) + 6 * kind;
        let bytes = data.get(at..at + 4).filter(|_| kind < types)?;
        Some(i32::from_be_bytes(bytes.try_into().ok()?).into())
    };
    let passed = (0..times)
        .take_while(|&i| time(i).is_some_and(|t| t <= epoch))
        .count();
    if passed == times
        && let Some(rule) = data.get(length(counts, wide)..)
        && let Ok(rule) = std::str::from_utf8(rule)
        && let Some(offset) = in_rule(rule.trim_matches('\n'), epoch)
    {
        return Some(offset);
    }
    match passed {
        0 => offset_of(0),
        n => offset_of((*data.get(times * wide + n - 1)?).into()),
    }
}

/// Reads a rule from left to right.
struct Rule<'r>(&'r str);

impl<'r> Rule<'r> {
    fn skip(&mut self, c: char) -> bool {
        let rest = self.0.strip_prefix(c);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn name(&mut self) -> Option<&'r str> {
        let end = match self.0.strip_prefix('<') {
            Some(rest) => rest.find('>')? + 2,
            None => self
                .0
                .find(|c: char| !c.is_ascii_alphabetic())
                .unwrap_or(self.0.len()),
        };
        let (name, rest) = self.0.split_at(end);
        self.0 = rest;
        (name.len() >= 3).then_some(name)
    }

    fn number(&mut self) -> Option<i64> {
        let end = self
            .0
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(self.0.len());
        let (digits, rest) = self.0.split_at(end.min(4));
        self.0 = rest;
        digits.parse().ok()
    }

    /// `[+-]hh[:mm[:ss]]` in seconds.
    fn time(&mut self) -> Option<i64> {
        let negative = self.skip('-');
        self.skip('+');
        let mut seconds = self.number()? * 3600;
        for unit in [60, 1] {
            if self.skip(':') {
                seconds += self.number()? * unit;
            }
        }
        Some(if negative { -seconds } else { seconds })
    }

    /// When summer time begins or ends in a year: seconds from its first day, by the local clock.
    fn change(&mut self, year: i64) -> Option<i64> {
        let leap = is_leap(year);
        let day = if self.skip('M') {
            let month = self.number()?;
            let (week, weekday) = (
                self.skip('.').then(|| self.number())??,
                self.skip('.').then(|| self.number())??,
            );
            let first = days_to(year, month);
            let first_weekday = (first + 4).rem_euclid(7);
            let mut day = (weekday - first_weekday).rem_euclid(7) + 7 * (week - 1);
            let end = days_to(year + i64::from(month == 12), month % 12 + 1) - first;
            while day >= end {
                day -= 7;
            }
            first - days_to(year, 1) + day
        } else if self.skip('J') {
            let day = self.number()?;
            day - 1 + i64::from(leap && day > 59)
        } else {
            self.number()?
        };
        let time = if self.skip('/') { self.time()? } else { 7200 };
        Some(day * 86_400 + time)
    }
}

/// The offset that a rule gives.
fn in_rule(rule: &str, epoch: i64) -> Option<i64> {
    let mut rule = Rule(rule);
    rule.name()?;
    let standard = -rule.time()?;
    if rule.0.is_empty() {
        return Some(standard);
    }
    rule.name()?;
    let summer = match rule.0.starts_with(',') || rule.0.is_empty() {
        true => standard + 3600,
        false => -rule.time()?,
    };
    if rule.0.is_empty() {
        rule.0 = ",M3.2.0,M11.1.0";
    }
    let local = epoch + standard;
    let (year, ..) = civil(local.div_euclid(86_400));
    let begin = rule.skip(',').then(|| rule.change(year))??;
    let end = rule.skip(',').then(|| rule.change(year))??;
    let at = local - days_to(year, 1) * 86_400;
    let end = end - (summer - standard);
    let in_summer = if begin < end {
        (begin..end).contains(&at)
    } else {
        !(end..begin).contains(&at)
    };
    Some(if in_summer { summer } else { standard })
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// Days from 1970-01-01 to the first of a month.
fn days_to(year: i64, month: i64) -> i64 {
    // Years are taken to begin in March, which puts the leap day last.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + (153 * month + 2) / 5 - 719_468
}

/// Year, month and day of a day since 1970-01-01.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468; // days from 0000-03-01
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = 400 * era + year_of_era + i64::from(month <= 2);
    (year, month, day_of_year - (153 * from_march + 2) / 5 + 1)
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

/// What a code stands for.
enum Part {
    /// A number, its width and what fills it up.
    Number(i64, usize, char),
    Text(String),
}

impl Moment {
    fn new(epoch: i64, micro: u32, offset: i64) -> Moment {
        let local = epoch + offset;
        Moment {
            epoch,
            micro,
            days: local.div_euclid(86_400),
            clock: local.rem_euclid(86_400),
        }
    }

    /// Python's `strftime` of a time without a zone, in the C locale; codes nobody knows stay as
    /// they are.
    pub fn strftime(&self, format: &str) -> String {
        let mut out = String::new();
        let mut rest = format;
        while let Some(at) = rest.find('%') {
            out.push_str(&rest[..at]);
            let tag = &rest[at + 1..];
            let flags = tag.len() - tag.trim_start_matches(['-', '_', '0', '^', '#']).len();
            let digits = tag[flags..]
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(tag.len() - flags);
            let width = tag[flags..flags + digits]
                .parse::<usize>()
                .ok()
                .map(|w| w.min(1024));
            let modifier = usize::from(tag[flags + digits..].starts_with(['E', 'O']));
            let before = flags + digits + modifier;
            let code = tag[before..].chars().next();
            let end = before + code.map_or(0, char::len_utf8);
            let part = code.and_then(|c| self.part(c, before == 0));
            match part {
                Some(part) => out.push_str(&laid_out(part, &tag[..flags], width, code)),
                None => out.push_str(&rest[at..at + 1 + end]),
            }
            rest = &tag[end..];
        }
        out + rest
    }

    fn part(&self, code: char, plain: bool) -> Option<Part> {
        let (year, month, day) = civil(self.days);
        let (hour, minute, second) = (self.clock / 3600, self.clock / 60 % 60, self.clock % 60);
        let weekday = (self.days + 4).rem_euclid(7);
        let day_of_year = self.days - days_to(year, 1);
        let month_name = MONTHS[month as usize - 1];
        let day_name = DAYS[weekday as usize];
        let half = if hour < 12 { "AM" } else { "PM" };
        let (iso_year, iso_week) = iso(year, day_of_year, weekday);
        let zeros = |n: i64, width: usize| Some(Part::Number(n, width, '0'));
        let spaces = |n: i64| Some(Part::Number(n, 2, ' '));
        let text = |t: &str| Some(Part::Text(t.to_owned()));
        let made = |format: &str| Some(Part::Text(self.strftime(format)));
        match code {
            'a' => text(&day_name[..3]),
            'A' => text(day_name),
            'b' | 'h' => text(&month_name[..3]),
            'B' => text(month_name),
            'c' => made("%a %b %e %H:%M:%S %Y"),
            'C' => zeros(year / 100, 2),
            'd' => zeros(day, 2),
            'D' | 'x' => made("%m/%d/%y"),
            'e' => spaces(day),
            'f' if plain => zeros(self.micro.into(), 6),
            'F' => made("%Y-%m-%d"),
            'g' => zeros(iso_year % 100, 2),
            'G' => zeros(iso_year, 1),
            'H' => zeros(hour, 2),
            'I' => zeros((hour + 11) % 12 + 1, 2),
            'j' => zeros(day_of_year + 1, 3),
            'k' => spaces(hour),
            'l' => spaces((hour + 11) % 12 + 1),
            'm' => zeros(month, 2),
            'M' => zeros(minute, 2),
            'n' => text("\n"),
            'p' => text(half),
            'P' => text(&half.to_lowercase()),
            'r' => made("%I:%M:%S %p"),
            'R' => made("%H:%M"),
            's' => zeros(self.epoch, 1),
            'S' => zeros(second, 2),
            't' => text("\t"),
            'T' | 'X' => made("%H:%M:%S"),
            'u' => zeros((weekday + 6) % 7 + 1, 1),
            'U' => zeros((day_of_year + 7 - weekday) / 7, 2),
            'V' => zeros(iso_week, 2),
            'w' => zeros(weekday, 1),
            'W' => zeros((day_of_year + 7 - (weekday + 6) % 7) / 7, 2),
            'y' => zeros(year % 100, 2),
            'Y' => zeros(year, 1),
            // A time without a zone has no name and no offset for it.
            'z' | 'Z' => text(""),
            '%' => text("%"),
            _ => None,
        }
    }
}

/// Year and week of ISO 8601.
fn iso(year: i64, day_of_year: i64, weekday: i64) -> (i64, i64) {
    let from_monday = (weekday + 6) % 7;
    let weeks_of = |year: i64| {
        let first = (days_to(year, 1) + 4).rem_euclid(7);
        52 + i64::from(first == 4 || first == 3 && is_leap(year))
    };
    match (day_of_year - from_monday + 10) / 7 {
        0 => (year - 1, weeks_of(year - 1)),
        week if week > weeks_of(year) => (year + 1, 1),
        week => (year, week),
    }
}

/// A part with the flags of the C library: `-` unpadded, `_` spaces, `0` zeros, `^` upper case,
/// `#` the other case.
fn laid_out(part: Part, flags: &str, width: Option<usize>, code: Option<char>) -> String {
    let pad_flag = flags.chars().rev().find(|c| "-_0".contains(*c));
    let (mut text, default, fill) = match part {
        Part::Number(n, width, fill) => (n.to_string(), width, fill),
        Part::Text(text) => (text, 0, ' '),
    };
    if flags.contains('^') {
        text.make_ascii_uppercase();
    } else if flags.contains('#') {
        match code {
            Some('p') => text.make_ascii_lowercase(),
            Some('a' | 'A' | 'b' | 'B' | 'h') => text.make_ascii_uppercase(),
            _ => {}
        }
    }
    let fill = match pad_flag {
        Some('_') => ' ',
        Some('0') => '0',
        _ => fill,
    };
    let width = width.unwrap_or(if pad_flag == Some('-') { 0 } else { default });
    let mut out = String::new();
    for _ in text.len()..width {
        out.push(fill);
    }
    let done = write!(out, "{text}");
    debug_assert!(done.is_ok(), "writing to a string does not fail");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All codes, as Python writes them for these times (seconds and microseconds).
    #[test]
    fn codes_are_those_of_python() {
        let all = "%a|%A|%b|%B|%c|%C|%d|%D|%e|%f|%F|%g|%G|%h|%H|%I|%j|%k|%l|%m|%M|%n|%p|%P|%r|%R|%s|%S|%t|%T|%u|%U|%V|%w|%W|%x|%X|%y|%Y|%z|%Z|%%";
        for (epoch, micro, expected) in [
            (
                1709211909,
                123,
                "Thu|Thursday|Feb|February|Thu Feb 29 13:05:09 2024|20|29|02/29/24|29|000123|2024-02-29|24|2024|Feb|13|01|060|13| 1|02|05|\n|PM|pm|01:05:09 PM|13:05|1709211909|09|\t|13:05:09|4|08|09|4|09|02/29/24|13:05:09|24|2024|||%",
            ),
            (
                0,
                0,
                "Thu|Thursday|Jan|January|Thu Jan  1 00:00:00 1970|19|01|01/01/70| 1|000000|1970-01-01|70|1970|Jan|00|12|001| 0|12|01|00|\n|AM|am|12:00:00 AM|00:00|0|00|\t|00:00:00|4|00|01|4|00|01/01/70|00:00:00|70|1970|||%",
            ),
            (
                1798761599,
                999999,
                "Thu|Thursday|Dec|December|Thu Dec 31 23:59:59 2026|20|31|12/31/26|31|999999|2026-12-31|26|2026|Dec|23|11|365|23|11|12|59|\n|PM|pm|11:59:59 PM|23:59|1798761599|59|\t|23:59:59|4|52|53|4|52|12/31/26|23:59:59|26|2026|||%",
            ),
            (
                1609657689,
                5,
                "Sun|Sunday|Jan|January|Sun Jan  3 07:08:09 2021|20|03|01/03/21| 3|000005|2021-01-03|20|2020|Jan|07|07|003| 7| 7|01|08|\n|AM|am|07:08:09 AM|07:08|1609657689|09|\t|07:08:09|7|01|53|0|00|01/03/21|07:08:09|21|2021|||%",
            ),
            (
                4107542400,
                0,
                "Mon|Monday|Mar|March|Mon Mar  1 00:00:00 2100|21|01|03/01/00| 1|000000|2100-03-01|00|2100|Mar|00|12|060| 0|12|03|00|\n|AM|am|12:00:00 AM|00:00|4107542400|00|\t|00:00:00|1|09|09|1|09|03/01/00|00:00:00|00|2100|||%",
            ),
        ] {
            assert_eq!(Moment::new(epoch, micro, 0).strftime(all), expected);
        }
        let flags = "%-d|%_d|%0e|%^a|%#b|%#p|%-j|%_H|%-I|%10d|%_5m|%^B|%8a|%08a|%Ey|%Od|%Q|%-Q|%|%E|%-y|%5Y|%:z|%3F|%-|é%dé";
        let expected = "29|29|29|THU|FEB|pm|60|13|1|0000000029|    2|FEBRUARY|     Thu|00000Thu|24|29|%Q|%-Q|%|%E|24|02024|%:z|2024-02-29|%-|é29é";
        assert_eq!(Moment::new(1_709_211_909, 123, 0).strftime(flags), expected);
    }

    /// Times of 2024, and offsets as the C library gives them.
    const TIMES: [i64; 11] = [
        1704067200, 1709200000, 1710052200, 1711846799, 1711846800, 1720000000, 1729990799,
        1729990800, 1730613599, 1730613600, 1735689599,
    ];

    #[test]
    fn rules_are_those_of_posix() {
        let rules: [(&str, &[i64]); 9] = [
            (
                "CET-1CEST,M3.5.0,M10.5.0/3",
                &[
                    3600, 3600, 3600, 3600, 7200, 7200, 7200, 3600, 3600, 3600, 3600,
                ],
            ),
            (
                "EST5EDT,M3.2.0,M11.1.0",
                &[
                    -18000, -18000, -18000, -14400, -14400, -14400, -14400, -14400, -14400, -18000,
                    -18000,
                ],
            ),
            (
                "<+0330>-3:30",
                &[
                    12600, 12600, 12600, 12600, 12600, 12600, 12600, 12600, 12600, 12600, 12600,
                ],
            ),
            (
                "AEST-10AEDT,M10.1.0,M4.1.0/3",
                &[
                    39600, 39600, 39600, 39600, 39600, 36000, 39600, 39600, 39600, 39600, 39600,
                ],
            ),
            (
                "IST-2IDT,M3.4.4/26,M10.5.0",
                &[
                    7200, 7200, 7200, 10800, 10800, 10800, 7200, 7200, 7200, 7200, 7200,
                ],
            ),
            (
                "XXX+4:30",
                &[
                    -16200, -16200, -16200, -16200, -16200, -16200, -16200, -16200, -16200, -16200,
                    -16200,
                ],
            ),
            (
                "AAA3BBB,J60/0,J300/0",
                &[
                    -10800, -10800, -7200, -7200, -7200, -7200, -7200, -7200, -10800, -10800,
                    -10800,
                ],
            ),
            (
                "AAA-3BBB-5,59/1:30,299",
                &[
                    10800, 18000, 18000, 18000, 18000, 18000, 10800, 10800, 10800, 10800, 10800,
                ],
            ),
            (
                "EST5EDT",
                &[
                    -18000, -18000, -18000, -14400, -14400, -14400, -14400, -14400, -14400, -18000,
                    -18000,
                ],
            ),
        ];
        for (rule, expected) in rules {
            let found: Vec<i64> = TIMES.iter().map(|t| offset(Some(rule), *t)).collect();
            assert_eq!(found, expected, "{rule}");
        }
        for bad in [
            "",
            "UTC0",
            "A",
            "no/such/zone",
            "../../etc/passwd",
            "CET-1CEST,M13",
            "XYZ",
        ] {
            assert_eq!(offset(Some(bad), TIMES[5]), 0, "{bad:?}");
        }
    }

    #[test]
    fn zone_files_are_read() {
        let header = |counts: [u32; 6]| {
            let mut bytes = b"TZif2".to_vec();
            bytes.extend([0; 15]);
            counts.iter().for_each(|c| bytes.extend(c.to_be_bytes()));
            bytes
        };
        // One change, at second 1000, from 1 h to 2 h; later the rule holds.
        let mut bytes = header([0; 6]);
        bytes.extend(header([0, 0, 0, 1, 2, 4]));
        bytes.extend(1000i64.to_be_bytes());
        bytes.push(1);
        for (offset, summer) in [(3600i32, 0), (7200, 1)] {
            bytes.extend(offset.to_be_bytes());
            bytes.extend([summer, 0]);
        }
        bytes.extend(b"ABC\0");
        let without = bytes.clone();
        bytes.extend(b"\nXXX-5\n");
        assert_eq!(in_file(&bytes, 0), Some(3600));
        assert_eq!(in_file(&bytes, 1000), Some(18_000));
        assert_eq!(in_file(&without, 999), Some(3600));
        assert_eq!(in_file(&without, 1000), Some(7200));
        for end in 0..without.len() {
            // Cut anywhere: an offset or none, never a panic.
            let _ = in_file(&bytes[..end], 1000);
        }
    }
}
