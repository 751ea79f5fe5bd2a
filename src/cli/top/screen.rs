//! What `ringtap top` shows: two lines of totals, the flows, a line of keys; over it, if asked for, the way of one flow.

use crate::cli::flows::filter::FilterArgs;
use crate::cli::flows::sample::Row;
use crate::cli::flows::{HEAD, cells};
use crate::cli::table::{age, bytes};
use crate::control::api::instance::InstanceView;
use crate::control::api::stats::StatsView;
use clap::ValueEnum;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Clear, Paragraph, Row as Cells, Table, TableState, Wrap};
use std::time::{Duration, Instant};

/// The state of the screen.
#[derive(Debug)]
pub struct Screen {
    instance: InstanceView,
    filter: FilterArgs,
    /// All flows of the last look.
    all: Vec<Row>,
    /// Where those are that are shown.
    rows: Vec<usize>,
    stats: Option<StatsView>,
    /// Frames a second from the guest and to it.
    frames: [u64; 2],
    looked: Instant,
    /// The name of the flow that is marked: it stays so wherever sorting puts it.
    marked: Option<String>,
    paused: bool,
    way: Option<String>,
}

impl Screen {
    /// Nothing was seen yet.
    pub fn new(instance: InstanceView, filter: FilterArgs) -> Self {
        Self {
            instance,
            filter,
            all: Vec::new(),
            rows: Vec::new(),
            stats: None,
            frames: [0; 2],
            looked: Instant::now(),
            marked: None,
            paused: false,
            way: None,
        }
    }

    /// A look.
    pub fn show(&mut self, rows: Vec<Row>, stats: StatsView) {
        let counted = |s: &StatsView| [s.counters.frames_from_guest, s.counters.frames_to_guest];
        if let Some(old) = self.stats.as_ref().filter(|old| old.age_ms < stats.age_ms) {
            let (old_frames, new_frames) = (counted(old), counted(&stats));
            let seconds = (stats.age_ms - old.age_ms) as f64 / 1e3;
            self.frames =
                [0, 1].map(|n| (new_frames[n].saturating_sub(old_frames[n]) as f64 / seconds) as u64);
        }
        (self.all, self.stats, self.looked) = (rows, Some(stats), Instant::now());
        self.arrange();
    }

    fn arrange(&mut self) {
        self.rows = self.filter.apply(&self.all);
    }

    /// Sorts by the next key.
    pub fn sort(&mut self) {
        self.filter.sort = self.filter.sort.next();
        self.arrange();
    }

    /// Sorts the other way round.
    pub fn reverse(&mut self) {
        self.filter.reverse = !self.filter.reverse;
        self.arrange();
    }

    /// Stands still, or goes on.
    pub fn pause(&mut self) {
        self.paused = !self.paused;
    }

    /// It stands still.
    pub const fn paused(&self) -> bool {
        self.paused
    }

    fn at(&self) -> Option<usize> {
        let marked = self.marked.as_ref()?;
        self.rows.iter().position(|n| self.all[*n].flow.id == *marked)
    }

    /// Marks a flow further down; the first time, the first one.
    pub fn move_by(&mut self, lines: isize) {
        let last = self.rows.len().saturating_sub(1);
        let at = self.at().map_or(0, |at| at.saturating_add_signed(lines).min(last));
        self.marked = self.rows.get(at).map(|n| self.all[*n].flow.id.clone());
    }

    /// The flow that is marked, or else the first.
    pub fn selected(&self) -> Option<String> {
        self.rows.get(self.at().unwrap_or(0)).map(|n| self.all[*n].flow.id.clone())
    }

    /// Shows the way of a flow.
    pub fn explain(&mut self, way: String) {
        self.way = Some(way);
    }

    /// One is shown.
    pub const fn explains(&self) -> bool {
        self.way.is_some()
    }

    /// No longer.
    pub fn close(&mut self) {
        self.way = None;
    }

    /// Draws it.
    pub fn draw(&self, frame: &mut Frame<'_>) {
        let areas = Layout::vertical([Constraint::Length(2), Constraint::Min(1), Constraint::Length(1)]);
        let [head, body, foot] = areas.areas(frame.area());
        frame.render_widget(Paragraph::new(self.totals()), head);
        self.draw_flows(frame, body);
        let order =
            self.filter.sort.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned());
        let order = if self.filter.reverse { format!("{order}, reversed") } else { order };
        let keys = format!(
            "q end  up/down mark  enter explain  s sort ({order})  r reverse  p {}",
            if self.paused { "go on (stands still)" } else { "stand still" }
        );
        frame.render_widget(Paragraph::new(keys).style(Style::new().add_modifier(Modifier::REVERSED)), foot);
        if let Some(way) = &self.way {
            let area = inside(frame.area());
            frame.render_widget(Clear, area);
            let block = Block::bordered().title("esc closes");
            frame.render_widget(Paragraph::new(way.as_str()).wrap(Wrap { trim: false }).block(block), area);
        }
    }

    fn totals(&self) -> Vec<Line<'static>> {
        let sum = |rate: fn(&Row) -> Option<u64>| self.all.iter().filter_map(rate).sum::<u64>();
        let up = Duration::from_millis(self.instance.uptime_ms) + self.looked.elapsed();
        let drops: u64 = self.stats.iter().flat_map(|s| s.counters.drops.values()).sum();
        let held = self.stats.as_ref().map_or(0, |s| s.counters.buffers_held);
        let lent = self.stats.as_ref().map_or(0, |s| s.pipes.lent);
        vec![
            Line::from(format!(
                "ringtap {} ({}), up {}: {} flows, {} shown",
                self.instance.name,
                self.instance.verb,
                age(up),
                self.all.len(),
                self.rows.len()
            )),
            Line::from(format!(
                "from the guest {}/s in {} frames, to it {}/s in {} frames; dropped {drops}; buffers in use {held}; pipes lent {lent}",
                bytes(sum(|r| r.rate_up)),
                self.frames[0],
                bytes(sum(|r| r.rate_down)),
                self.frames[1],
            )),
        ]
    }

    fn draw_flows(&self, frame: &mut Frame<'_>, area: Rect) {
        // Only what can be seen is made.
        let room = usize::from(area.height).saturating_sub(1).max(1);
        let at = self.at();
        let first = at.map_or(0, |at| (at + 1).saturating_sub(room));
        let seen: Vec<_> = self.rows.iter().skip(first).take(room).map(|n| cells(&self.all[*n])).collect();
        let width = |n: usize| {
            let longest = seen.iter().map(|c| c[n].len()).max().unwrap_or(0).max(HEAD[n].len());
            Constraint::Length(u16::try_from(longest).unwrap_or(u16::MAX))
        };
        let widths: Vec<_> = (0..HEAD.len()).map(width).collect();
        let head = Cells::new(HEAD).style(Style::new().add_modifier(Modifier::BOLD));
        let table = Table::new(seen.into_iter().map(Cells::new), widths)
            .header(head)
            .column_spacing(2)
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        let mut state = TableState::new().with_selected(at.map(|at| at - first));
        frame.render_stateful_widget(table, area, &mut state);
    }
}

/// The area less a margin.
fn inside(area: Rect) -> Rect {
    let (x, y) = (area.width / 16, area.height / 10);
    Rect::new(area.x + x, area.y + y, area.width - 2 * x, area.height - 2 * y)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::cli::flows::filter::tests::row;
    use crate::config::Network;
    use crate::control::api::Facts;
    use crate::flow::DropReason;
    use crate::msg::PlaneStats;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use std::path::Path;

    /// Two flows, the second marked.
    pub fn some() -> Screen {
        let view =
            InstanceView::of(&Facts::new("run", None), Path::new("/run/web"), 1, Some(&Network::default()));
        let mut screen = Screen::new(view, FilterArgs::default());
        let rows = vec![
            row("tcp:0.0", "10.0.2.100:4000", "198.51.100.2:80", 2048),
            row("tcp:1.0", "10.0.2.100:4001", "198.51.100.2:81", 1 << 20),
        ];
        let mut stats = PlaneStats { age_ms: 1000, ..PlaneStats::default() };
        screen.show(rows.clone(), StatsView::from(&stats));
        stats.age_ms = 3000;
        stats.counters.frames_to_guest = 500;
        stats.counters.drop(DropReason::Policy);
        screen.show(rows, StatsView::from(&stats));
        screen.move_by(0);
        screen.move_by(1);
        screen
    }

    fn drawn(screen: &Screen, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..height).map(line).collect()
    }

    #[test]
    fn flows_and_totals_are_on_the_screen_in_the_order_wanted() {
        let mut screen = some();
        let lines = drawn(&screen, 200, 10);
        assert!(lines[0].starts_with("ringtap web (run), up 0s: 2 flows, 2 shown"), "{lines:#?}");
        assert!(
            lines[1].contains("1.0M/s in 0 frames") && lines[1].contains("in 250 frames; dropped 1;"),
            "{lines:#?}"
        );
        assert!(lines[2].starts_with("FLOW") && lines[3].starts_with("tcp:0.0"), "{lines:#?}");
        assert!(lines[4].contains("198.51.100.2:81") && lines[9].contains("sort (flow)"), "{lines:#?}");
        screen.sort();
        let lines = drawn(&screen, 200, 10);
        assert!(lines[3].starts_with("tcp:1.0") && lines[9].contains("sort (rate)"), "{lines:#?}");
        assert_eq!(screen.selected().as_deref(), Some("tcp:1.0"));
        screen.explain("who listens where".to_owned());
        assert!(drawn(&screen, 80, 24).iter().any(|l| l.contains("who listens where")));
        // Hardly any room is no reason to fall.
        for (width, height) in [(1, 1), (10, 3), (80, 4)] {
            drawn(&screen, width, height);
        }
    }

    #[test]
    fn the_marked_flow_is_in_sight() {
        let mut screen = some();
        let rows: Vec<_> =
            (0..100).map(|n| row(&format!("tcp:{n}.0"), "10.0.2.100:1", "192.0.2.1:2", n)).collect();
        screen.show(rows, StatsView::from(&PlaneStats::default()));
        screen.move_by(isize::MAX);
        assert_eq!(screen.selected().as_deref(), Some("tcp:99.0"));
        assert!(drawn(&screen, 160, 10).iter().any(|l| l.starts_with("tcp:99.0")));
        screen.move_by(isize::MIN);
        assert_eq!(screen.selected().as_deref(), Some("tcp:0.0"));
    }
}
