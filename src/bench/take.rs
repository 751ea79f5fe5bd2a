//! One sample: one load of one entrant, once.
//!
//! The client starts and says when all its connections are made; the load warms up; then both ends' counters and the entrant's
//! CPU time are read at the beginning and at the end of a window. What arrived between the two readings of the receiving end is
//! the figure. Memory is looked at all along the window.

use super::cost::{cpu_with_children, resident, switches};
use super::load::{Agent, AgentError, Latency, Reading, Task, Way};
use super::pace::Search;
use super::plan::{Cell, Load};
use super::stand::{Ground, Stand};
use std::time::{Duration, Instant};

/// How long all connections together may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same for those that sit still, which are many.
const PATIENCE_IDLE: Duration = Duration::from_secs(40);
/// How often memory is looked at.
const GLANCE: Duration = Duration::from_millis(50);
/// What is on its way when the pace changes arrives in the meantime.
const SETTLE: Duration = Duration::from_millis(30);

/// How long things take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Times {
    /// Before figures count.
    pub warm_up: Duration,
    /// While they count.
    pub window: Duration,
    /// Of one trial of a pace.
    pub trial: Duration,
}

impl Times {
    /// In proportion to a window.
    pub fn of(window: Duration) -> Self {
        let share = |s: f64, least: u64, most: u64| {
            window.mul_f64(s).clamp(Duration::from_millis(least), Duration::from_millis(most))
        };
        Self { warm_up: share(0.3, 20, 500), window, trial: share(0.2, 50, 400) }
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// In the cell's unit.
    pub figure: f64,
    /// CPU seconds for a GB or a million operations; none for the direct path.
    pub cost: Option<f64>,
    /// Switches of the entrant's threads for the same.
    pub switches: Option<f64>,
    /// Highest seen, in MiB.
    pub memory: Option<f64>,
    /// Datagrams lost, in percent.
    pub lost: Option<f64>,
    /// Of each operation.
    pub latency: Option<Latency>,
}

/// Everything that is read at one moment.
struct Moment {
    client: Reading,
    server: Reading,
    cpu: f64,
    switches: u64,
}

impl Moment {
    fn of(client: Reading, server: &Agent, stand: &Stand<'_>) -> Result<Self, AgentError> {
        let server = server.mark()?;
        let processes = stand.processes();
        let cpu = processes.iter().filter_map(|p| cpu_with_children(*p)).sum();
        // A process that just ended is not worth a failure.
        let switches = switches(&processes).unwrap_or(0);
        Ok(Self { client, server, cpu, switches })
    }
}

/// The difference of two readings.
struct Between {
    seconds: f64,
    received: f64,
    datagrams_received: f64,
    datagrams_sent: f64,
    operations: f64,
    lost: f64,
}

fn between(from: &Reading, to: &Reading) -> Between {
    let less = |a: u64, b: u64| b.saturating_sub(a) as f64;
    Between {
        seconds: (less(from.at, to.at) / 1e9).max(1e-9),
        received: less(from.received, to.received),
        datagrams_received: less(from.datagrams_received, to.datagrams_received),
        datagrams_sent: less(from.datagrams_sent, to.datagrams_sent),
        operations: less(from.operations, to.operations),
        lost: less(from.lost, to.lost),
    }
}

/// Takes `cell` of `stand` once. `outside` is the server that is not the stand's own; `pace` is what a search for the pace of
/// datagrams found the last time, and finds.
///
/// # Errors
/// The load does not start, fails, or nothing comes of it.
pub fn take(
    ground: &Ground,
    cell: &Cell,
    stand: &Stand<'_>,
    outside: Option<&Agent>,
    pace: &mut Option<f64>,
    times: Times,
) -> Result<Sample, AgentError> {
    let server = stand.server().or(outside).ok_or(AgentError::Ended)?;
    let client = |task, patience| Agent::client(stand.clients(), &ground.own, stand.at, task, patience);
    let _idle = match cell.idle {
        0 => None,
        connections => Some(client(Task::Hold { connections }, PATIENCE_IDLE)?),
    };
    server.next()?;
    let client = client(cell.load.task(), PATIENCE)?;
    let sample = measure(cell, stand, client, server, pace, times);
    if (Load::Datagrams { way: Way::Down }) == cell.load {
        // It serves others after this.
        server.pace(0.0)?;
    }
    sample
}

fn measure(
    cell: &Cell,
    stand: &Stand<'_>,
    client: Agent,
    server: &Agent,
    pace: &mut Option<f64>,
    times: Times,
) -> Result<Sample, AgentError> {
    if let Load::Datagrams { way } = cell.load {
        let (sender, receiver) = if way == Way::Up { (&client, server) } else { (server, &client) };
        *pace = Some(settle(sender, receiver, *pace, times.trial)?);
    }
    std::thread::sleep(times.warm_up);
    let from = Moment::of(client.begin()?, server, stand)?;
    let end = Instant::now() + times.window;
    let mut memory = 0f64;
    loop {
        memory = memory.max(resident(&stand.processes()));
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        std::thread::sleep(left.min(GLANCE));
    }
    let to = Moment::of(client.mark()?, server, stand)?;
    let latency = client.finish()?;
    let mut sample = figure(cell, &from, &to, times)?;
    let has_processes = !stand.processes().is_empty();
    sample.memory = has_processes.then_some(memory);
    sample.cost = sample.cost.filter(|_| has_processes);
    sample.switches = sample.switches.filter(|_| has_processes);
    if latency.is_none() && matches!(cell.load, Load::Exchange { .. }) {
        return Err(stalled(times));
    }
    sample.latency = latency;
    Ok(sample)
}

fn stalled(times: Times) -> AgentError {
    AgentError::Late(times.window)
}

/// The figure of a cell, and its costs.
fn figure(cell: &Cell, from: &Moment, to: &Moment, times: Times) -> Result<Sample, AgentError> {
    let (client, server) = (between(&from.client, &to.client), between(&from.server, &to.server));
    let (up, down) = (server.received / server.seconds, client.received / client.seconds);
    let mut lost = None;
    // The figure, and of what the costs are: bytes in GB, or operations in millions.
    let (figure, done) = match cell.load {
        Load::Bulk { way: Way::Up, .. } => (up * 8.0 / 1e9, server.received / 1e9),
        Load::Bulk { way: Way::Down, .. } => (down * 8.0 / 1e9, client.received / 1e9),
        Load::Bulk { way: Way::Both, .. } => {
            if up == 0.0 || down == 0.0 {
                return Err(stalled(times));
            }
            ((up + down) * 8.0 / 1e9, (server.received + client.received) / 1e9)
        }
        // Its figure is the latency, which the caller takes from the histogram; the rate says whether there was any.
        Load::Exchange { .. } | Load::Connect => {
            (client.operations / client.seconds / 1e3, client.operations / 1e6)
        }
        Load::Datagrams { way } => {
            let (from, to) = if way == Way::Down { (&server, &client) } else { (&client, &server) };
            let (sent, received) = (from.datagrams_sent, to.datagrams_received);
            // What was on its way at the beginning may make it a little less than nothing.
            lost = Some((100.0 * (1.0 - received / sent.max(1.0))).max(0.0));
            (received / to.seconds / 1e3, received / 1e6)
        }
        Load::RoundTrips => {
            lost = Some(100.0 * client.lost / (client.operations + client.lost).max(1.0));
            (client.operations / client.seconds / 1e3, client.operations / 1e6)
        }
    };
    if done <= 0.0 {
        return Err(stalled(times));
    }
    Ok(Sample {
        figure,
        cost: Some((to.cpu - from.cpu).max(0.0) / done),
        switches: Some(to.switches.saturating_sub(from.switches) as f64 / done),
        memory: None,
        lost,
        latency: None,
    })
}

/// Looks for the pace of what `sender` sends; see [`super::pace`].
fn settle(sender: &Agent, receiver: &Agent, before: Option<f64>, trial: Duration) -> Result<f64, AgentError> {
    let mut search = before.map_or_else(Search::default, Search::again);
    loop {
        sender.pace(search.pace())?;
        std::thread::sleep(SETTLE);
        let (s0, r0) = (sender.mark()?, receiver.mark()?);
        std::thread::sleep(trial);
        let (s1, r1) = (sender.mark()?, receiver.mark()?);
        let (sent, received) = (between(&s0, &s1), between(&r0, &r1));
        let settled =
            search.seen(sent.datagrams_sent / sent.seconds, received.datagrams_received / received.seconds);
        sender.pace(search.pace())?;
        if settled {
            return Ok(search.pace());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::plan::{Link, Path};

    fn moment(at: u64, received: u64, sent: u64, cpu: f64) -> Moment {
        let client = Reading {
            at,
            received,
            operations: received,
            datagrams_received: received,
            datagrams_sent: sent,
            ..Reading::default()
        };
        let server = Reading { received: 2 * received, datagrams_received: 2 * received, ..client };
        Moment { client, server, cpu, switches: received / 1000 }
    }

    fn cell(load: Load) -> Cell {
        Cell { path: Path::Outbound, link: Link::Plain, mtu: 1500, load, idle: 0 }
    }

    #[test]
    fn a_figure_is_what_the_receiving_end_counted_in_its_own_time() {
        let times = Times::of(Duration::from_secs(1));
        let (from, to) = (moment(0, 0, 0, 1.0), moment(500_000_000, 1_000_000_000, 0, 2.0));
        let bulk = |way| figure(&cell(Load::Bulk { way, streams: 1 }), &from, &to, times).unwrap();
        assert_eq!((bulk(Way::Up).figure, bulk(Way::Up).cost), (32.0, Some(0.5)));
        assert_eq!((bulk(Way::Down).figure, bulk(Way::Down).cost), (16.0, Some(1.0)));
        assert_eq!(bulk(Way::Both).figure, 48.0);
        assert_eq!(bulk(Way::Down).switches, Some(1_000_000.0));
    }

    #[test]
    fn losses_are_of_what_was_sent() {
        let times = Times::of(Duration::from_secs(1));
        let (from, to) = (moment(0, 0, 0, 0.0), moment(1_000_000_000, 75_000, 200_000, 0.3));
        let seen = figure(&cell(Load::Datagrams { way: Way::Up }), &from, &to, times).unwrap();
        assert_eq!((seen.figure, seen.lost), (150.0, Some(25.0)));
        assert_eq!(seen.cost, Some(2.0));
        let down = figure(&cell(Load::Datagrams { way: Way::Down }), &from, &to, times).unwrap();
        assert_eq!((down.figure, down.lost), (75.0, Some(62.5)));
    }

    #[test]
    fn nothing_at_all_is_a_stall() {
        let times = Times::of(Duration::from_secs(2));
        let (from, to) = (moment(0, 5, 5, 0.0), moment(2_000_000_000, 5, 5, 0.0));
        for load in [Load::Connect, Load::RoundTrips, Load::Bulk { way: Way::Both, streams: 4 }] {
            let error = figure(&cell(load), &from, &to, times).unwrap_err().to_string();
            assert!(error.starts_with("stalled"), "{error}");
        }
    }

    #[test]
    fn times_follow_the_window() {
        let times = Times::of(Duration::from_secs(1));
        assert_eq!((times.warm_up, times.trial), (Duration::from_millis(300), Duration::from_millis(200)));
        assert_eq!(Times::of(Duration::from_secs(60)).warm_up, Duration::from_millis(500));
        assert_eq!(Times::of(Duration::from_millis(10)).trial, Duration::from_millis(50));
    }
}
