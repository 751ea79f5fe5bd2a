//! A bench from beginning to end.
//!
//! Cells of one setting (path, link, MTU) are taken together: all its entrants are started once and stay, idle while others work.
//! In each round every cell is taken by every entrant in turn (A B C, A B C ..), so whatever else the machine does falls on all
//! alike. An entrant that fails is noted with its words, started anew for the next cell, and left alone once it fails to start.
//! An interrupt ends the run after the sample that is being taken; what there is by then is reported.

use super::entrant::{self, Entrant, Kind, Program};
use super::load::{Agent, AgentError, Way};
use super::machine;
use super::plan::{Cell, Link, Load, Path, Scope, cells};
use super::report::{Entry, FORMAT, Listed, NotRun, Report, Row};
use super::stand::{Ground, Setting, Stand};
use super::take::{Sample, Times, take};
use crate::lab::LabError;
use crate::lab::impair::Impairment;
use indicatif::{ProgressBar, ProgressStyle};
use nix::sys::signal::{SigSet, Signal};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// When `--quick` begins no further round, so that it ends within 90 s on a slow machine too.
const QUICK_ENDS: Duration = Duration::from_secs(82);
/// Starts that may fail before an entrant is left alone.
const STRIKES: u32 = 2;
/// Peers of a quick run.
const QUICK_PEERS: usize = 2;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// How much.
    pub scope: Scope,
    /// Samples of each figure; otherwise as the scope has it.
    pub rounds: Option<u32>,
    /// Length of a sample; otherwise as the scope has it.
    pub window: Option<Duration>,
    /// Programs beside those of PATH, or instead of them.
    pub with: Vec<(String, PathBuf)>,
    /// Names of the programs that take part beside ringtap; otherwise all.
    pub against: Option<Vec<String>>,
    /// Cells whose names contain one of these, whatever the scope; otherwise as the scope has it.
    pub only: Vec<String>,
    /// Connections that sit still, where a cell has some.
    pub idle: u32,
    /// This program.
    pub own: PathBuf,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// No namespaces, no sockets.
    #[error("{0}; `ringtap bench` needs user namespaces and /dev/net/tun, as `ringtap run` does")]
    Lab(#[from] LabError),
    /// A server of our own does not run.
    #[error("a load generator does not run: {0}")]
    Generator(#[from] AgentError),
    /// Nothing is called so.
    #[error("no {what} is called {name}; there are {there}")]
    Unknown {
        /// What was meant.
        what: &'static str,
        /// What was given.
        name: String,
        /// What could be.
        there: String,
    },
}

/// Rounds and window of a scope.
fn defaults(scope: Scope) -> (u32, Duration) {
    match scope {
        Scope::Quick => (3, Duration::from_millis(450)),
        Scope::Default => (3, Duration::from_secs(1)),
        Scope::Full => (5, Duration::from_secs(2)),
    }
}

/// Runs it.
///
/// # Errors
/// [`BenchError`]: of the bench itself, not of an entrant.
pub fn run(options: &Options) -> Result<Report, BenchError> {
    let began = Instant::now();
    let unix_time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
    let (programs, mut listed) = programs(options)?;
    let all = cells(options.idle);
    let wanted = |cell: &Cell| match options.only.is_empty() {
        true => options.scope.has(cell),
        false => options.only.iter().any(|o| cell.id().contains(o.as_str())),
    };
    if let Some(name) = options.only.iter().find(|o| !all.iter().any(|c| c.id().contains(o.as_str()))) {
        let there = all.iter().map(Cell::id).collect::<Vec<_>>().join(", ");
        return Err(BenchError::Unknown { what: "cell", name: name.clone(), there });
    }
    let (rounds, window) = defaults(options.scope);
    let (rounds, window) = (options.rounds.unwrap_or(rounds), options.window.unwrap_or(window));
    let ground = Ground::new(&options.own)?;
    let chosen: Vec<Cell> = all.iter().copied().filter(wanted).collect();
    let mut bench = Bench {
        ground: &ground,
        rounds,
        times: Times::of(window),
        ends: (options.scope == Scope::Quick).then(|| began + QUICK_ENDS),
        best: (options.scope == Scope::Quick).then_some(QUICK_PEERS),
        interrupted: on_interrupt(),
        bar: bar(),
        rows: Vec::new(),
        left_out: Vec::new(),
    };
    bench.all(&chosen, &programs)?;
    bench.bar.finish_and_clear();
    for (name, why) in &bench.left_out {
        if let Some(one) = listed.iter_mut().find(|l| l.name == *name) {
            one.problem.get_or_insert_with(|| why.clone());
        }
    }
    let rows = bench.rows;
    let not_run = all
        .iter()
        .filter(|c| !rows.iter().any(|r| r.id == c.id()))
        .map(|c| NotRun { id: c.id(), section: c.section(), title: c.title() })
        .collect();
    Ok(Report {
        format: FORMAT,
        ringtap: env!("CARGO_PKG_VERSION").to_owned(),
        machine: machine::machine(),
        by_root: ground.lab.users_are_real(),
        unix_time,
        took_s: began.elapsed().as_secs_f64(),
        scope: options.scope,
        rounds,
        window_s: window.as_secs_f64(),
        contenders: listed,
        rows,
        not_run,
    })
}

/// Who takes part, and how all are listed.
fn programs(options: &Options) -> Result<(Vec<Program>, Vec<Listed>), BenchError> {
    let (mut programs, absent) = entrant::roster(&options.own, &options.with);
    if let Some(against) = &options.against {
        let known = |name: &str| programs.iter().any(|p| p.name == name) || absent.contains(&name);
        if let Some(name) = against.iter().find(|a| !known(a)) {
            let there = programs.iter().map(|p| &p.name[..]).collect::<Vec<_>>().join(", ");
            return Err(BenchError::Unknown { what: "program", name: name.clone(), there });
        }
        programs.retain(|p| p.name == "ringtap" || against.contains(&p.name));
    }
    let mut listed: Vec<Listed> = programs
        .iter()
        .map(|p| Listed {
            name: p.name.clone(),
            program: Some(p.path.display().to_string()),
            version: match p.kind {
                Kind::Socat => machine::version_of_socat(&p.path.to_string_lossy()),
                _ => machine::version(&p.path.to_string_lossy()),
            },
            problem: None,
        })
        .collect();
    listed.extend(absent.into_iter().map(|name| Listed {
        name: name.to_owned(),
        program: None,
        version: None,
        problem: Some("not in PATH".to_owned()),
    }));
    Ok((programs, listed))
}

/// Raised by SIGINT and SIGTERM from now on. Programs that we start have them as usual.
fn on_interrupt() -> Arc<AtomicBool> {
    let raised = Arc::new(AtomicBool::new(false));
    let mut set = SigSet::empty();
    set.add(Signal::SIGINT);
    set.add(Signal::SIGTERM);
    if set.thread_block().is_ok() {
        let raise = raised.clone();
        // Without the thread they would be lost: then they end us at once.
        let waits = move || raise.store(set.wait().is_ok(), Ordering::Relaxed);
        if std::thread::Builder::new().name("signals".into()).spawn(waits).is_err() {
            let _ = set.thread_unblock();
        }
    }
    raised
}

/// On standard error, where that is a terminal.
fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30.cyan/dim} {pos:>3}/{len} {elapsed} {msg}");
    let bar = ProgressBar::new(0);
    match style {
        Ok(style) => bar.with_style(style.progress_chars("━━─")),
        Err(_) => bar,
    }
}

struct Bench<'a> {
    ground: &'a Ground,
    rounds: u32,
    times: Times,
    ends: Option<Instant>,
    best: Option<usize>,
    interrupted: Arc<AtomicBool>,
    bar: ProgressBar,
    rows: Vec<Row>,
    /// Programs that took no part, and why.
    left_out: Vec<(String, String)>,
}

/// An entrant and what became of it in one setting.
struct Player<'a> {
    entrant: Entrant,
    number: u16,
    stand: Option<Stand<'a>>,
    strikes: u32,
    /// Why it is left alone.
    out: Option<String>,
}

impl<'a> Player<'a> {
    /// Its stand, started if it is not there.
    fn stand(&mut self, ground: &'a Ground, setting: Setting) -> Result<&Stand<'a>, String> {
        if let Some(why) = &self.out {
            return Err(why.clone());
        }
        let stand = match self.stand.take() {
            Some(stand) => stand,
            None => match Stand::start(ground, setting, &self.entrant, self.number) {
                Ok(stand) => stand,
                Err(e) => {
                    self.strikes += 1;
                    let why = format!("does not start: {}", told(ground, &self.entrant, &e));
                    self.out = (self.strikes == STRIKES).then(|| why.clone());
                    return Err(why);
                }
            },
        };
        Ok(self.stand.insert(stand))
    }
}

/// An error with what the entrant said last.
fn told(ground: &Ground, entrant: &Entrant, error: &AgentError) -> String {
    match ground.last_words(entrant) {
        Some(words) => format!("{error} ({words})"),
        None => error.to_string(),
    }
}

/// Of one cell and one entrant.
#[derive(Default)]
struct Slot {
    samples: Vec<Sample>,
    problem: Option<String>,
    pace: Option<f64>,
}

impl<'a> Bench<'a> {
    fn all(&mut self, chosen: &[Cell], programs: &[Program]) -> Result<(), BenchError> {
        let mut settings: Vec<Setting> = Vec::new();
        for cell in chosen {
            let setting = Setting { path: cell.path, link: cell.link, mtu: cell.mtu };
            if !settings.contains(&setting) {
                settings.push(setting);
            }
        }
        let takes = |c: &Cell| entrant::entrants(programs, c.path).len() as u64 * u64::from(self.rounds);
        self.bar.set_length(chosen.iter().map(takes).sum());
        for setting in settings {
            let cells: Vec<Cell> = chosen
                .iter()
                .copied()
                .filter(|c| (c.path, c.link, c.mtu) == (setting.path, setting.link, setting.mtu))
                .collect();
            self.setting(setting, &cells, programs)?;
        }
        Ok(())
    }

    fn over(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// All cells of one setting.
    fn setting(&mut self, setting: Setting, cells: &[Cell], programs: &[Program]) -> Result<(), BenchError> {
        let how = Impairment {
            delay: Duration::from_millis(5),
            loss: 0.001,
            rate: Some(100_000_000),
            ..Impairment::default()
        };
        let _link = match setting.link {
            Link::Plain => None,
            Link::Impaired => Some(self.ground.lab.impaired(how)?),
        };
        let server = match setting.path {
            Path::Outbound => Some(self.ground.server(setting.link)?),
            Path::Published => None,
        };
        let mut players: Vec<Player<'a>> = entrant::entrants(programs, setting.path)
            .into_iter()
            .zip(0..)
            .map(|(entrant, number)| Player { entrant, number, stand: None, strikes: 0, out: None })
            .collect();
        self.leave_the_best(setting, server.as_ref(), &mut players);
        let mut slots: Vec<Vec<Slot>> =
            cells.iter().map(|_| players.iter().map(|_| Slot::default()).collect()).collect();
        let mut longest = Duration::ZERO;
        for _ in 0..self.rounds {
            let start = Instant::now();
            if self.over() || self.ends.is_some_and(|end| start + longest > end) {
                break;
            }
            for (cell, slots) in cells.iter().zip(&mut slots) {
                for (player, slot) in players.iter_mut().zip(slots) {
                    if !self.over() {
                        self.turn(setting, cell, player, slot, server.as_ref());
                    }
                }
            }
            longest = longest.max(start.elapsed());
        }
        for (cell, slots) in cells.iter().zip(slots) {
            let mut row = Row::of(cell);
            let entries =
                players.iter().zip(slots).filter(|(_, s)| !s.samples.is_empty() || s.problem.is_some());
            row.entries = entries
                .map(|(p, s)| {
                    Entry::of(&p.entrant.name, p.entrant.is_peer(), cell.load, &s.samples, s.problem)
                })
                .collect();
            if !row.entries.is_empty() {
                self.rows.push(row);
            }
        }
        Ok(())
    }

    /// One sample, or why there is none.
    fn turn(
        &self,
        setting: Setting,
        cell: &Cell,
        player: &mut Player<'a>,
        slot: &mut Slot,
        server: Option<&Agent>,
    ) {
        self.bar.set_message(format!("{}: {}", cell.title(), player.entrant.name));
        self.bar.inc(1);
        // What failed once is not tried in every round: it may take long to fail.
        if slot.problem.is_some() {
            return;
        }
        if !player.entrant.has_datagrams() && matches!(cell.load, Load::Datagrams { .. } | Load::RoundTrips) {
            return;
        }
        let taken = match player.stand(self.ground, setting) {
            Ok(stand) => take(self.ground, cell, stand, server, &mut slot.pace, self.times),
            Err(why) => {
                slot.problem = Some(why);
                return;
            }
        };
        match taken {
            Ok(sample) => slot.samples.push(sample),
            // What we end ourselves is nobody's failure.
            Err(_) if self.over() => {}
            Err(e) => {
                slot.problem = Some(told(self.ground, &player.entrant, &e));
                player.stand = None;
            }
        }
    }

    /// Where only the best peers are wanted and there are more, a short transfer each way tells which those are.
    fn leave_the_best(&mut self, setting: Setting, server: Option<&Agent>, players: &mut Vec<Player<'a>>) {
        let peers = players.iter().filter(|p| p.entrant.is_peer()).count();
        let Some(best) = self.best.filter(|best| peers > *best) else { return };
        let mut seen: Vec<(String, f64)> = Vec::new();
        for player in players.iter_mut().filter(|p| p.entrant.is_peer()) {
            let mut product = 1.0;
            for way in [Way::Up, Way::Down] {
                let load = Load::Bulk { way, streams: 1 };
                let Setting { path, link, mtu } = setting;
                let mut slot = Slot::default();
                self.turn(setting, &Cell { path, link, mtu, load, idle: 0 }, player, &mut slot, server);
                product *= slot.samples.first().map_or(0.0, |s| s.figure);
            }
            seen.push((player.entrant.name.clone(), product));
        }
        seen.sort_by(|a, b| b.1.total_cmp(&a.1));
        let gone: Vec<String> = seen.split_off(best).into_iter().map(|(name, _)| name).collect();
        players.retain(|p| !gone.contains(&p.entrant.name));
        let why = "not among the two best peers of a short transfer, which is what a quick run compares with";
        self.left_out.extend(gone.into_iter().map(|name| (name, why.to_owned())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            scope: Scope::Quick,
            rounds: None,
            window: None,
            with: vec![("pasta-x".to_owned(), "/nowhere/pasta".into())],
            against: None,
            only: Vec::new(),
            idle: 10,
            own: "/nowhere/ringtap".into(),
        }
    }

    #[test]
    fn every_program_is_listed_whether_it_is_there_or_not() {
        let (programs, listed) = programs(&options()).unwrap();
        for kind in entrant::Kind::ALL {
            assert!(listed.iter().any(|l| l.name.starts_with(kind.name())), "{kind:?}");
        }
        assert_eq!(listed.iter().filter(|l| l.program.is_some()).count(), programs.len());
        assert!(listed.iter().all(|l| l.program.is_some() || l.problem.is_some()));
    }

    #[test]
    fn against_leaves_out_all_others_and_knows_names() {
        let few = Options { against: Some(vec!["pasta-x".to_owned()]), ..options() };
        let names: Vec<_> = programs(&few).unwrap().0.into_iter().map(|p| p.name).collect();
        assert_eq!(names, ["ringtap", "pasta-x"]);
        let wrong = Options { against: Some(vec!["vpnkit".to_owned()]), ..options() };
        let error = programs(&wrong).unwrap_err().to_string();
        assert!(error.starts_with("no program is called vpnkit; there are ringtap"), "{error}");
    }

    #[test]
    fn a_cell_that_does_not_exist_is_said_before_anything_is_started() {
        let error = run(&Options { only: vec!["tcp-5".to_owned()], ..options() }).unwrap_err().to_string();
        assert!(error.contains("no cell is called tcp-5") && error.contains("outbound/1500/rr-1"), "{error}");
    }
}
