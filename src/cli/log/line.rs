//! What a line of the log looks like, for people and for programs.

use super::LogFormat;
use super::pace::Pace;
use serde_json::{Map, Value};
use std::fmt;
use std::time::Instant;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Writes lines, if there are not too many.
pub struct Line {
    format: LogFormat,
    pace: Pace<Identifier>,
}

impl Line {
    /// In that format.
    pub fn new(format: LogFormat) -> Self {
        Self { format, pace: Pace::new() }
    }
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(left_out) = self.pace.admit(event.metadata().callsite(), Instant::now()) else {
            return Ok(());
        };
        match self.format {
            LogFormat::Text => {
                write!(writer, "ringtap: {}: ", level(event))?;
                context.format_fields(writer.by_ref(), event)?;
                if left_out > 0 {
                    write!(writer, " ({left_out} more of this kind were left out)")?;
                }
                writeln!(writer)
            }
            LogFormat::Json => {
                let mut time = String::new();
                SystemTime.format_time(&mut Writer::new(&mut time))?;
                writeln!(writer, "{}", object(event, &time, left_out))
            }
        }
    }
}

fn level(event: &Event<'_>) -> &'static str {
    match *event.metadata().level() {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// time, level, part, pid, message, and the event's own fields by their names.
fn object(event: &Event<'_>, time: &str, left_out: u64) -> Value {
    let part = event.metadata().target();
    let mut fields = Fields(Map::new());
    event.record(&mut fields);
    let Fields(mut map) = fields;
    map.insert("time".into(), time.into());
    map.insert("level".into(), level(event).into());
    map.insert("part".into(), part.strip_prefix("ringtap::").unwrap_or(part).into());
    map.insert("pid".into(), std::process::id().into());
    if left_out > 0 {
        map.insert("leftOut".into(), left_out.into());
    }
    Value::Object(map)
}

struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::layer::SubscriberExt;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written of what `say` says.
    fn written(format: LogFormat, say: impl FnOnce()) -> String {
        let kept = Kept::default();
        let to = kept.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(move || to.clone())
            .event_format(Line::new(format));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), say);
        String::from_utf8(kept.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn people_get_a_line_as_shell_tools_write_it() {
        let text = written(LogFormat::Text, || tracing::warn!(flow = 7, "it {}", "is slow"));
        assert_eq!(text, "ringtap: warning: it is slow flow=7\n");
    }

    #[test]
    fn programs_get_an_object_a_line_with_fields_of_their_types() {
        let text = written(LogFormat::Json, || {
            tracing::error!(count = 3u64, whole = true, what = ?Some("x"), "two\nlines");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["level"], "error");
        assert_eq!(value["message"], "two\nlines");
        assert_eq!((value["count"].as_u64(), value["whole"].as_bool()), (Some(3), Some(true)));
        assert_eq!(value["what"], "Some(\"x\")");
        assert_eq!(value["part"], "cli::log::line::tests");
        assert!(value["time"].as_str().unwrap().ends_with('Z'), "{text}");
    }

    #[test]
    fn a_flood_of_one_kind_is_cut_short_and_counted() {
        let flood = || (0..5000).for_each(|n| tracing::warn!("frame {n}"));
        let text = written(LogFormat::Text, flood);
        assert!((10..100).contains(&text.lines().count()), "{}", text.lines().count());
        let text = written(LogFormat::Text, || {
            for n in 0..50 {
                if n == 49 {
                    std::thread::sleep(std::time::Duration::from_millis(1010));
                }
                tracing::warn!("frame {n}");
            }
        });
        assert!(
            text.ends_with("ringtap: warning: frame 49 (39 more of this kind were left out)\n"),
            "{text}"
        );
    }
}
