//! What the kernel says about this process, under the names that every Prometheus client uses.

use procfs::ProcResult;
use procfs::process::{LimitValue, Process};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

/// Memory, descriptors and processor time.
#[derive(Debug)]
pub(super) struct ProcessCollector;

struct Usage {
    cpu_s: f64,
    resident_bytes: u64,
    open_fds: u64,
    max_fds: Option<u64>,
    start_s: f64,
}

fn usage() -> ProcResult<Usage> {
    let process = Process::myself()?;
    let stat = process.stat()?;
    let ticks = procfs::ticks_per_second() as f64;
    let max_fds = match process.limits()?.max_open_files.soft_limit {
        LimitValue::Value(limit) => Some(limit),
        LimitValue::Unlimited => None,
    };
    Ok(Usage {
        cpu_s: (stat.utime + stat.stime) as f64 / ticks,
        resident_bytes: stat.rss * procfs::page_size(),
        open_fds: process.fd_count()? as u64,
        max_fds,
        start_s: procfs::boot_time_secs()? as f64 + stat.starttime as f64 / ticks,
    })
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> std::fmt::Result {
        // Without /proc there is nothing to say, and everything else is still worth a scrape.
        let Ok(usage) = usage() else { return Ok(()) };
        let mut gauge = |name, help, value: f64| encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value);
        gauge("process_resident_memory_bytes", "Memory in use", usage.resident_bytes as f64)?;
        gauge("process_open_fds", "Open file descriptors", usage.open_fds as f64)?;
        if let Some(max_fds) = usage.max_fds {
            gauge("process_max_fds", "Most file descriptors that may be open", max_fds as f64)?;
        }
        gauge("process_start_time_seconds", "When the process started, in seconds since 1970", usage.start_s)?;
        encoder
            .encode_descriptor("process_cpu_seconds", "Processor time used", None, MetricType::Counter)?
            .encode_counter::<[(&str, &str); 0], _, f64>(&usage.cpu_s, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_itself() {
        let usage = usage().unwrap();
        assert!(usage.resident_bytes > 100_000 && usage.open_fds >= 3, "{} {}", usage.resident_bytes, usage.open_fds);
        assert!(usage.max_fds.is_none_or(|max| max >= usage.open_fds));
        let age_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64() - usage.start_s;
        assert!((-2.0..600.0).contains(&age_s), "{age_s}");
    }
}
