//! A real browser on pages: how wide they are, whether they can be read, what it complains about.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Measurements of a page in a browser.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Seen {
    pub(crate) page: usize,
    pub(crate) width: u32,
    /// Width of the content.
    pub(crate) content: u32,
    /// Number of visible table rows.
    pub(crate) rows: usize,
    /// Number of visible charts.
    pub(crate) charts: usize,
    /// The least contrast of a text and what is behind it, and that text.
    pub(crate) contrast: f64,
    #[allow(dead_code, reason = "for whoever reads why a test failed")]
    pub(crate) text: String,
    pub(crate) background: String,
}

/// A browser with a profile of its own. Without one the test is skipped, loudly, unless skipping is forbidden.
pub(crate) struct Browser {
    program: PathBuf,
    folder: tempfile::TempDir,
}

impl Browser {
    pub(crate) fn find(test: &str) -> Option<Browser> {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let found = ["chromium", "chromium-browser", "google-chrome"]
            .iter()
            .find_map(|name| std::env::split_paths(&paths).map(|path| path.join(name)).find(|path| path.is_file()));
        let Some(program) = found else {
            let why = "no `chromium` on the PATH";
            assert!(std::env::var("XTASK_REQUIRE_REAL").as_deref() != Ok("1"), "{test}: {why}");
            let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("\nskipped: {test}: {why}\n").as_bytes());
            return None;
        };
        Some(Browser { program, folder: tempfile::tempdir().unwrap() })
    }

    fn run(&self, args: &[&str], url: &str) -> Output {
        let output = Command::new(&self.program)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"])
            .args(["--disable-background-networking", "--disable-component-update", "--hide-scrollbars"])
            .args(["--enable-logging=stderr", "--log-level=0"])
            .arg(format!("--user-data-dir={}", self.folder.path().join("profile").display()))
            .args(args)
            .arg(url)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// The document that becomes of a page, and what the browser complained about.
    pub(crate) fn open(&self, url: &str) -> (String, Vec<String>) {
        let output = self.run(&["--dump-dom"], url);
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        let complaints = log.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect();
        (String::from_utf8_lossy(&output.stdout).into_owned(), complaints)
    }

    /// Takes a picture of a page.
    pub(crate) fn picture(&self, url: &str, width: u32, height: u32, settings: &str) -> Vec<u8> {
        let file = self.folder.path().join("picture.png");
        let shot = format!("--screenshot={}", file.display());
        self.run(&[&shot, &format!("--window-size={width},{height}"), settings], url);
        std::fs::read(&file).unwrap()
    }

    /// Lays out pages, given as HTML, at each width.
    pub(crate) fn measure(&self, pages: &[String], widths: &[u32], dark: bool) -> Vec<Seen> {
        let mut frames = String::new();
        for (page, html) in pages.iter().enumerate() {
            let html = html.replace('&', "&amp;").replace('"', "&quot;");
            for width in widths {
                // A window is never as narrow as a phone; a frame can be.
                let _ = writeln!(
                    frames,
                    "<iframe data-page={page} width={width} height=900 style=\"border:0\" srcdoc=\"{html}\"></iframe>"
                );
            }
        }
        let file = self.folder.path().join("frames.html");
        let html = format!("<!doctype html><title>unmeasured</title>{frames}<script>{MEASURE}</script>");
        std::fs::write(&file, html).unwrap();
        let url = format!("file://{}", file.display());
        let output = self.run(&["--dump-dom", scheme(dark)], &url);
        let dom = String::from_utf8_lossy(&output.stdout);
        let title = dom.split("<title>").nth(1).and_then(|rest| rest.split("</title>").next()).unwrap_or_default();
        let title = title.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
        serde_json::from_str(&title).unwrap_or_else(|cause| panic!("{cause}: {title}"))
    }
}

/// Returns the setting that makes the browser prefer a scheme.
pub(crate) fn scheme(dark: bool) -> &'static str {
    if dark { "--blink-settings=preferredColorScheme=0" } else { "--blink-settings=preferredColorScheme=1" }
}

/// Returns the text after the headers.
pub(crate) fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

/// Folder for the pictures, if they are to be kept.
pub(crate) fn gallery() -> Option<PathBuf> {
    std::env::var_os("AUTOSCALER_TEST_PICTURES").map(|folder| Path::new(&folder).to_owned())
}

const MEASURE: &str = r"
const light = c => {
  const [r, g, b] = c.map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const numbers = text => text.match(/[\d.]+/g).map(Number);
addEventListener('load', () => {
  document.title = JSON.stringify([...document.querySelectorAll('iframe')].map(frame => {
    const doc = frame.contentDocument, view = frame.contentWindow, root = doc.documentElement;
    const shown = e => e.getClientRects().length > 0;
    const background = e => {
      for (; e; e = e.parentElement) {
        const c = numbers(view.getComputedStyle(e).backgroundColor);
        if (c.length < 4 || c[3] > 0.99) return c.slice(0, 3);
      }
      return [255, 255, 255];
    };
    let contrast = 99, text = '';
    for (const e of doc.body.querySelectorAll('*')) {
      const own = [...e.childNodes].filter(n => n.nodeType === 3).map(n => n.data.trim()).join(' ').trim();
      if (!own || !shown(e) || e.closest('details:not([open]) > :not(summary)')) continue;
      const style = view.getComputedStyle(e);
      const colour = numbers(e.namespaceURI.endsWith('svg') ? style.fill : style.color).slice(0, 3);
      const [a, b] = [light(colour), light(background(e))];
      const here = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      if (here < contrast) [contrast, text] = [here, own.slice(0, 60)];
    }
    return {
      page: +frame.dataset.page, width: root.clientWidth, content: root.scrollWidth, contrast, text,
      rows: [...doc.querySelectorAll('tbody tr')].filter(shown).length,
      charts: [...doc.querySelectorAll('svg')].filter(shown).length,
      background: view.getComputedStyle(doc.body).backgroundColor,
    };
  }));
});
";
