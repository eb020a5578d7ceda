//! Who had the CPUs while something was measured: this process, other programs, other machines.

/// Clock ticks since the start of the machine and of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CpuTimes {
    /// All CPUs, idle time included.
    all: u64,
    /// Idle and waiting for a disk.
    idle: u64,
    /// Given to other virtual machines.
    stolen: u64,
    /// This process and its threads.
    own: u64,
}

/// Shares of the CPU time of the machine, 0..=1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CpuShare {
    /// Other programs.
    pub others: f64,
    /// Other virtual machines.
    pub stolen: f64,
}

impl CpuTimes {
    /// Now; `None` outside Linux.
    pub fn now() -> Option<CpuTimes> {
        let read = |path| std::fs::read_to_string(path).ok();
        CpuTimes::parse(&read("/proc/stat")?, &read("/proc/self/stat")?)
    }

    /// `stat` of the machine and of the process (proc(5)).
    fn parse(machine: &str, process: &str) -> Option<CpuTimes> {
        let line = machine.lines().find_map(|l| l.strip_prefix("cpu "))?;
        // user nice system idle iowait irq softirq steal; the guests are part of user and nice.
        let t: Vec<u64> = line
            .split_whitespace()
            .take(8)
            .map_while(|n| n.parse().ok())
            .collect();
        // The name, in parentheses, may hold anything; utime and stime are fields 14 and 15.
        let (_, fields) = process.rsplit_once(')')?;
        let mut times = fields
            .split_whitespace()
            .skip(11)
            .map_while(|n| n.parse::<u64>().ok());
        Some(CpuTimes {
            all: t.iter().sum(),
            idle: t.get(3)? + t.get(4)?,
            stolen: *t.get(7)?,
            own: times.next()? + times.next()?,
        })
    }

    /// Shares of the time since `start`; `None` when no time has passed.
    pub fn since(&self, start: &CpuTimes) -> Option<CpuShare> {
        let all = self.all.checked_sub(start.all).filter(|n| *n > 0)? as f64;
        let passed = |f: fn(&CpuTimes) -> u64| f(self).saturating_sub(f(start)) as f64;
        let (idle, stolen, own) = (passed(|t| t.idle), passed(|t| t.stolen), passed(|t| t.own));
        Some(CpuShare {
            others: ((all - idle - stolen - own) / all).max(0.0),
            stolen: stolen / all,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ours_is_others() {
        let process = |own: u64| format!("7 (a) b) R 1 2 3 4 5 6 7 8 9 10 {own} 5 0 0");
        let at = |machine: &str, own| CpuTimes::parse(machine, &process(own)).expect("parsed");
        let start = at("cpu  100 0 10 800 20 0 0 0 9 0\ncpu0 1\n", 40);
        let end = at("cpu  150 0 20 820 20 0 0 20 9 0\n", 80);
        // 100 ticks: 20 idle, 20 stolen, 40 own, 20 others.
        let share = end.since(&start).expect("time passed");
        assert_eq!(
            share,
            CpuShare {
                others: 0.2,
                stolen: 0.2
            }
        );
        assert_eq!(start.since(&start), None);
        assert_eq!(CpuTimes::parse("cpu  1 2", "7 (a) R"), None);
    }

    #[test]
    fn linux_tells() {
        if cfg!(target_os = "linux") {
            assert!(CpuTimes::now().is_some());
        }
    }
}
