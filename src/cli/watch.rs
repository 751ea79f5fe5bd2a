//! Looking again and again: `--watch` and how often.

use clap::Args;
use std::io::{IsTerminal, Write};
use std::time::Duration;

/// Home, and everything behind it cleared (ECMA-48: CUP, ED).
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

/// How often a verb looks.
#[derive(Clone, Copy, Debug, Args)]
pub struct Every {
    /// Look again every SECONDS, until interrupted
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = seconds)]
    pub watch: Option<Duration>,
    /// With --watch, end after that many looks
    #[arg(long, value_name = "N", requires = "watch")]
    pub count: Option<usize>,
}

impl Every {
    /// The looks, each with the time to wait before it; `None` is the only one.
    pub fn looks(&self) -> impl Iterator<Item = Option<Duration>> + use<> {
        let most = if self.watch.is_some() { self.count.unwrap_or(usize::MAX) } else { 1 };
        std::iter::repeat_n(self.watch, most)
    }
}

/// A time between two looks: short enough to be a look, long enough not to be a load.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<f64>().ok().filter(|s| (0.1..=86_400.0).contains(s));
    parsed.map(Duration::from_secs_f64).ok_or_else(|| format!("{text:?} is not from 0.1 to 86400 seconds"))
}

/// Writes to standard output; on a terminal, `again` takes the place of what was there. False: nobody reads it any more.
pub fn show(text: &str, again: bool) -> bool {
    let mut out = std::io::stdout();
    let clear = if again && out.is_terminal() { CLEAR } else { "" };
    out.write_all(clear.as_bytes())
        .and_then(|()| out.write_all(text.as_bytes()))
        .and_then(|()| out.flush())
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_look_or_as_many_as_asked_for() {
        let looks = |watch, count| Every { watch, count }.looks().take(9).count();
        let second = Some(Duration::from_secs(1));
        assert_eq!((looks(None, None), looks(second, Some(3)), looks(second, None)), (1, 3, 9));
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["0", "-1", "x", "nan", "1e9"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
