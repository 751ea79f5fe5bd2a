//! `ringtap top`: flows and totals of an instance, full-screen and live.
//!
//! [`screen`] holds what is shown and is drawn without a terminal in tests; here are the terminal, the keys and the looks.
//! A look that fails ends it: the instance has gone. The terminal is put back whichever way it ends.

pub mod screen;

use super::CliError;
use super::explain;
use super::flows::filter::FilterArgs;
use super::flows::sample::Sampler;
use super::instance::InstanceArgs;
use super::port::client::ClientError;
use super::watch::seconds;
use crate::control::api::instance::InstanceView;
use crate::control::api::stats::StatsView;
use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use screen::Screen;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Options of `top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    #[command(flatten)]
    instance: InstanceArgs,
    #[command(flatten)]
    filter: FilterArgs,
    /// Time between two looks
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    every: Duration,
}

impl TopArgs {
    /// Shows it until told to stop.
    ///
    /// # Errors
    /// [`CliError`].
    pub fn run(self) -> Result<u8, CliError> {
        if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
            let cause = "it wants a terminal; for anything else there is ringtap flows --watch".to_owned();
            return Err(CliError::Option { option: "top", cause });
        }
        let mut sampler = Sampler::new(self.instance.find()?);
        let instance: InstanceView = sampler.client().get("/ringtap/v1/instance")?;
        let mut screen = Screen::new(instance, self.filter);
        screen.show(sampler.look()?.to_vec(), stats(&sampler)?);
        let failed = |source| ClientError::Io { path: "the terminal".to_owned(), source };
        let mut terminal = ratatui::try_init().map_err(failed)?;
        let outcome = live(&mut terminal, &mut sampler, &mut screen, self.every);
        ratatui::restore();
        outcome.map_err(CliError::from).map(|()| 0)
    }
}

fn stats(sampler: &Sampler) -> Result<StatsView, ClientError> {
    sampler.client().get("/ringtap/v1/stats")
}

fn live(
    terminal: &mut ratatui::DefaultTerminal,
    sampler: &mut Sampler,
    screen: &mut Screen,
    every: Duration,
) -> Result<(), ClientError> {
    let failed = |source| ClientError::Io { path: "the terminal".to_owned(), source };
    let mut due = Instant::now() + every;
    loop {
        terminal.draw(|frame| screen.draw(frame)).map_err(failed)?;
        let left = due.saturating_duration_since(Instant::now());
        if event::poll(left).map_err(failed)? {
            match event::read().map_err(failed)? {
                Event::Key(key) if key.kind != KeyEventKind::Release => match act(key, screen) {
                    Act::Stay => {}
                    Act::End => return Ok(()),
                    Act::Explain => {
                        if let Some(flow) = screen.selected() {
                            // It may have ended meanwhile.
                            let said = explain::flow(sampler.client(), &flow);
                            screen.explain(said.unwrap_or_else(|e| format!("{e}\n")));
                        }
                    }
                },
                _ => {}
            }
            continue;
        }
        due = Instant::now() + every;
        if !screen.paused() {
            screen.show(sampler.look()?.to_vec(), stats(sampler)?);
        }
    }
}

/// What a key asks for.
#[derive(Debug, PartialEq, Eq)]
enum Act {
    Stay,
    End,
    Explain,
}

fn act(key: KeyEvent, screen: &mut Screen) -> Act {
    let page = isize::from(10i8);
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Act::End,
        KeyCode::Esc | KeyCode::Char('q') if screen.explains() => screen.close(),
        KeyCode::Esc | KeyCode::Char('q') => return Act::End,
        KeyCode::Enter => return Act::Explain,
        KeyCode::Char('s') => screen.sort(),
        KeyCode::Char('r') => screen.reverse(),
        KeyCode::Char('p' | ' ') => screen.pause(),
        KeyCode::Up | KeyCode::Char('k') => screen.move_by(-1),
        KeyCode::Down | KeyCode::Char('j') => screen.move_by(1),
        KeyCode::PageUp => screen.move_by(-page),
        KeyCode::PageDown => screen.move_by(page),
        KeyCode::Home => screen.move_by(isize::MIN),
        KeyCode::End => screen.move_by(isize::MAX),
        _ => {}
    }
    Act::Stay
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::top::screen::tests::some;

    #[test]
    fn keys_do_what_the_last_line_says() {
        let mut screen = some();
        let mut press = |code| act(KeyEvent::new(code, KeyModifiers::NONE), &mut screen);
        assert_eq!(press(KeyCode::Char('x')), Act::Stay);
        assert_eq!(press(KeyCode::Down), Act::Stay);
        assert_eq!(press(KeyCode::Enter), Act::Explain);
        assert_eq!(press(KeyCode::Char('q')), Act::End);
        assert_eq!(act(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL), &mut screen), Act::End);
        assert_eq!(screen.selected().as_deref(), Some("tcp:1.0"));
        screen.explain("a way\n".to_owned());
        assert_eq!(act(KeyEvent::new(KeyCode::Esc, KeyModifiers::NONE), &mut screen), Act::Stay);
        assert!(!screen.explains());
    }
}
