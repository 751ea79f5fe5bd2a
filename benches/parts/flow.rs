//! The timer wheel, as connections use it: a deadline is moved far more often than it is met.

use criterion::{BenchmarkId, Criterion};
use ringtap::flow::{Time, Wheel};
use std::time::Duration;

/// Deadlines 200 ms ahead, as retransmission's are.
const AHEAD: Duration = Duration::from_millis(200);

/// Moving one deadline among so many, and taking those that are due.
pub fn wheel(c: &mut Criterion) {
    let mut group = c.benchmark_group("timer wheel");
    for armed in [10u32, 10_000, 1_000_000] {
        let mut wheel = Wheel::default();
        let mut now = Time::from_millis(1);
        let spread =
            |n: u32| AHEAD + Duration::from_micros(u64::from(n.wrapping_mul(2_654_435_761) % 1_000_000));
        let mut tokens: Vec<_> = (0..armed).map(|n| wheel.insert(now + spread(n), n)).collect();
        let mut turn = 0u32;
        group.bench_function(BenchmarkId::new("move", armed), |b| {
            b.iter(|| {
                turn = turn.wrapping_add(2_654_435_761);
                let n = turn % armed;
                now += Duration::from_nanos(100);
                wheel.cancel(tokens[n as usize]);
                tokens[n as usize] = wheel.insert(now + spread(n), n);
                // The plane asks after each batch.
                while let Some(n) = wheel.pop_expired(now) {
                    tokens[n as usize] = wheel.insert(now + spread(n), n);
                }
                wheel.next_deadline()
            });
        });
        assert_eq!(wheel.len(), armed as usize);
    }
    group.finish();
}
