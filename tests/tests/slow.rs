//! A slow push finishes, however long it takes; a stalled one is cut at the idle limit.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use e2e::{Body, Random, Registry, sha256};

/// Gives some bytes and then none for a long time.
struct Stalling {
    left: usize,
    pause: Duration,
}

impl Read for Stalling {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            sleep(self.pause);
            return Err(io::ErrorKind::TimedOut.into());
        }
        let given = self.left.min(buffer.len());
        buffer[..given].fill(7);
        self.left -= given;
        Ok(given)
    }
}

#[test]
fn a_push_of_a_megabyte_per_second_finishes_and_a_stalled_one_is_cut() {
    const IDLE: Duration = Duration::from_secs(3);
    let mebibytes = std::env::var("BERTH_SLOW_MIB").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    let registry = Registry::start();
    registry.add_to_gateway(&format!("[limits]\nbody_idle_timeout_s = {}\n", IDLE.as_secs()));
    let client = registry.client(registry.first);
    let begin = || client.send("POST", "/v2/slow/one/blobs/uploads/", &[], Body::None).header("Location").unwrap().to_owned();

    let stalled = begin();
    let began = Instant::now();
    let mut body = Stalling { left: 1 << 20, pause: IDLE * 3 };
    let answer = client.try_send("PATCH", &stalled, &[], Body::Sized(1 << 21, &mut body));
    assert!(answer.as_ref().map_or(true, |answer| answer.status == 408), "{:?}", answer.map(|answer| answer.status));
    assert!(began.elapsed() < IDLE * 4, "{:?}", began.elapsed());
    // What had arrived is kept: the client goes on from there.
    let status = client.get(&stalled).expect(204).unwrap();
    assert_eq!(status.header("Range"), Some("0-1048575"));

    let path = registry.path("layer");
    let (mut file, block) = (File::create(&path).unwrap(), Random(5).bytes(1 << 20));
    (0..mebibytes).for_each(|_| file.write_all(&block).unwrap());
    let digest = {
        let sum = Command::new("sha256sum").arg(&path).output().unwrap();
        format!("sha256:{}", String::from_utf8_lossy(&sum.stdout).split(' ').next().unwrap())
    };
    let url = format!("https://localhost:{}{}?digest={digest}", registry.first, begin());
    let (user, began) = (format!("admin:{}", e2e::registry::PASSWORD), Instant::now());
    // A curl that sends a piece of a second at a time is slower than most lines.
    let file = path.to_str().unwrap();
    let said = registry.curl(&["-u", &user, "-T", file, "--limit-rate", "1M", "-o", "/dev/null", "-w", "%{http_code}", &url]);
    assert_eq!(said, "201");
    println!("{mebibytes} MiB in {:?}", began.elapsed());
    assert!(began.elapsed() > Duration::from_secs(mebibytes / 2), "it was not slow");
    assert_eq!(sha256(&client.get(&format!("/v2/slow/one/blobs/{digest}")).bytes()), digest["sha256:".len()..]);
}
