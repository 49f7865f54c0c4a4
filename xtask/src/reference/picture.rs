//! A recorded terminal session as an SVG: a monospaced text in a window, in a light and in a dark theme.

/// Colours of a picture.
pub(super) struct Theme {
    background: &'static str,
    border: &'static str,
    text: &'static str,
    prompt: &'static str,
    label: &'static str,
}

pub(super) const LIGHT: Theme =
    Theme { background: "#ffffff", border: "#d0d7de", text: "#1f2328", prompt: "#0969da", label: "#1a7f37" };
pub(super) const DARK: Theme =
    Theme { background: "#0d1117", border: "#30363d", text: "#e6edf3", prompt: "#58a6ff", label: "#3fb950" };

/// Pixels of one character of the font, and of one line.
const CHARACTER: f64 = 7.8;
const LINE: usize = 20;
/// Columns of the terminal: longer lines continue on the next one.
const COLUMNS: usize = 112;
/// Columns of the word that xtask prints first in a line, right-aligned.
const LABEL: usize = 12;

/// The picture of a session: lines that begin with `$ ` are typed, the others are output.
pub(super) fn svg(session: &str, theme: &Theme) -> String {
    let lines: Vec<String> = session.lines().flat_map(wrapped).collect();
    let columns = lines.iter().map(|line| line.chars().count()).max().unwrap_or_default();
    let (width, height) = ((columns as f64 * CHARACTER) as usize + 40, lines.len() * LINE + 32);
    let Theme { background, border, text, .. } = theme;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\" \
         aria-label=\"A terminal session\">\n\
         <rect x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"8\" fill=\"{background}\" stroke=\"{border}\"/>\n\
         <g font-family=\"ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace\" font-size=\"13\" fill=\"{text}\">\n",
        width - 1,
        height - 1
    );
    for (index, line) in lines.iter().enumerate().filter(|(_, line)| !line.is_empty()) {
        let y = 16 + LINE * index + 14;
        svg += &format!("<text x=\"20\" y=\"{y}\" xml:space=\"preserve\">{}</text>\n", spans(line, theme));
    }
    svg + "</g>\n</svg>\n"
}

/// A line as a terminal shows it.
fn wrapped(line: &str) -> Vec<String> {
    let all: Vec<char> = line.chars().collect();
    if all.is_empty() { vec![String::new()] } else { all.chunks(COLUMNS).map(|part| part.iter().collect()).collect() }
}

fn spans(line: &str, theme: &Theme) -> String {
    let label = line.char_indices().nth(LABEL).map_or("", |(at, _)| &line[..at]);
    let is_label =
        line.starts_with(' ') && label.trim_start().chars().all(char::is_alphabetic) && !label.trim().is_empty();
    match line.strip_prefix("$ ") {
        Some(typed) => {
            format!("<tspan fill=\"{}\">$ </tspan><tspan font-weight=\"bold\">{}</tspan>", theme.prompt, escaped(typed))
        }
        None if is_label => {
            let rest = escaped(&line[label.len()..]);
            format!("<tspan fill=\"{}\" font-weight=\"bold\">{}</tspan>{rest}", theme.label, escaped(label))
        }
        None => escaped(line),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_lines_labels_and_other_output_differ() {
        let svg = svg("$ a <b>\n       built `x & y`\nplain\n", &LIGHT);
        assert!(svg.contains("$ </tspan><tspan font-weight=\"bold\">a &lt;b&gt;</tspan>"), "{svg}");
        assert!(svg.contains("font-weight=\"bold\">       built</tspan> `x &amp; y`"), "{svg}");
        assert!(svg.contains(">plain</text>"), "{svg}");
    }

    #[test]
    fn long_lines_continue_on_the_next() {
        let shown = svg(&"x".repeat(COLUMNS + 1), &DARK);
        assert_eq!(shown.matches("<text ").count(), 2, "{shown}");
    }
}
