//! SVG as text: rectangles, lines, paths and labels, escaped, with the style sheet of all pictures.

use std::fmt::Write;

/// A place, or a size: to the right, and down.
pub type Pair = (f64, f64);

/// Which end of a text is at its place.
#[derive(Clone, Copy)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// Classes, for light and then for dark.
const STYLE: &str = "
text { font-family: 'Inter', 'Segoe UI', 'Helvetica Neue', 'DejaVu Sans', Arial, sans-serif; fill: #1f2328; }
.page { fill: #f5f6f8; } .card { fill: #ffffff; stroke: #dfe3e8; }
.title { font-size: 22px; font-weight: 700; } .head { font-size: 17px; font-weight: 700; }
.subhead { font-size: 13px; font-weight: 600; fill: #59636e; }
.panel { font-size: 13px; font-weight: 600; } .note, .unit { fill: #6e7781; } .note { font-size: 12.5px; }
.unit, .tick, .value, .label { font-size: 11px; } .tick { fill: #6e7781; } .own { font-weight: 700; }
.dim { fill: #6e7781; } .problem { font-size: 11px; fill: #c0392b; font-style: italic; }
.grid { stroke: #e6e9ed; stroke-width: 1; } .whisker { stroke: #1f2328; stroke-opacity: 0.55; stroke-width: 1.2; }
.track { fill: #eef1f4; }
.curve { fill: none; stroke-width: 1.8; stroke-linejoin: round; } .curve.own { stroke-width: 3; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; } .page { fill: #0d1117; } .card { fill: #161b22; stroke: #30363d; }
.subhead, .note, .unit, .tick, .dim { fill: #9198a1; } .grid { stroke: #262c34; } .whisker { stroke: #e6edf3; }
.track { fill: #20262e; } .problem { fill: #ff7b72; }
}
";

/// A picture that grows.
#[derive(Default)]
pub struct Canvas(String);

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

// Writing to a string cannot fail.
impl Canvas {
    /// A text of a class.
    pub fn text(&mut self, (x, y): Pair, class: &str, anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escape(text);
        let _ = writeln!(
            self.0,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\" text-anchor=\"{anchor}\">{text}</text>"
        );
    }

    /// A rectangle with round corners, of a class or a colour.
    pub fn rect(&mut self, at: Pair, size: Pair, round: f64, class: &str, color: Option<&str>) {
        self.titled_rect(at, size, round, class, color, "");
    }

    /// The same, with what is shown to who hovers over it.
    pub fn titled_rect(
        &mut self,
        (x, y): Pair,
        (width, height): Pair,
        round: f64,
        class: &str,
        color: Option<&str>,
        title: &str,
    ) {
        let fill = color.map(|c| format!(" fill=\"{c}\"")).unwrap_or_default();
        let (width, height) = (width.max(0.0), height.max(0.0));
        let _ = write!(
            self.0,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"{round}\" \
             class=\"{class}\"{fill}>"
        );
        if !title.is_empty() {
            let _ = write!(self.0, "<title>{}</title>", escape(title));
        }
        let _ = writeln!(self.0, "</rect>");
    }

    /// A straight line of a class.
    pub fn line(&mut self, (x1, y1): Pair, (x2, y2): Pair, class: &str) {
        let _ = writeln!(
            self.0,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{class}\"/>"
        );
    }

    /// A line through these places.
    pub fn curve(&mut self, through: &[Pair], class: &str, color: &str) {
        let points: Vec<String> = through.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let points = points.join(" ");
        let _ = writeln!(self.0, "<polyline points=\"{points}\" class=\"{class}\" stroke=\"{color}\"/>");
    }

    /// A panel with its title and unit.
    pub fn panel(&mut self, (x, y): Pair, size: Pair, title: &str, unit: &str) {
        self.rect((x, y), size, 8.0, "card", None);
        self.text((x + 14.0, y + 23.0), "panel", Anchor::Start, title);
        self.text((x + 14.0, y + 39.0), "unit", Anchor::Start, unit);
    }

    /// The file.
    pub fn finish(self, width: f64, height: f64) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
             viewBox=\"0 0 {width:.0} {height:.0}\">\n<style>{STYLE}</style>\n\
             <rect width=\"{width:.0}\" height=\"{height:.0}\" class=\"page\"/>\n{}</svg>\n",
            self.0
        )
    }
}
