//! Pages: one file each, without network, which can be read without scripts, on paper, on a phone, by the
//! keyboard and aloud, light or dark as the reader's system is.

use super::Chart;
use crate::error::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Text with the special characters of HTML escaped.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// An SVG document as a picture with its caption; `alt` is told to whoever does not see it.
pub(crate) fn figure(svg: &str, alt: &str, caption: &str) -> String {
    let [alt, caption] = [alt, caption].map(escape);
    let svg = svg.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{alt}\" "), 1);
    format!("<figure>{svg}<figcaption>{caption}</figcaption></figure>\n")
}

/// A chart with its caption.
///
/// # Errors
/// Those of [`Chart::svg`].
pub(crate) fn chart(chart: &Chart<'_>, caption: &str) -> Result<String> {
    Ok(figure(&chart.svg()?, &chart.in_words(), caption))
}

/// A PNG file as the address of a picture.
pub(crate) fn png_address(png: &[u8]) -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(png))
}

/// A picture with its caption, embedded in the page; `alt` is told to whoever does not see it.
pub(crate) fn picture(png: &[u8], alt: &str, caption: &str) -> String {
    let [alt, caption] = [alt, caption].map(escape);
    format!(
        "<figure class=\"grid\"><img alt=\"{alt}\" src=\"{}\"/><figcaption>{caption}</figcaption></figure>\n",
        png_address(png)
    )
}

/// A paragraph.
pub(crate) fn paragraph(text: &str) -> String {
    format!("<p>{}</p>\n", escape(text))
}

/// A command to type.
pub(crate) fn command(text: &str) -> String {
    format!("<code>{}</code>", escape(text))
}

/// A list of remarks, or nothing.
pub(crate) fn remarks(items: &[String]) -> String {
    if items.is_empty() {
        return String::new();
    }
    let items: String = items.iter().map(|item| format!("<li>{}</li>\n", escape(item))).collect();
    format!("<ul>\n{items}</ul>\n")
}

/// A page, whose parts but for the title are HTML.
#[derive(Clone, Debug, Default)]
pub(crate) struct Page {
    /// Its title and first heading.
    pub title: String,
    /// Under the heading.
    pub lead: String,
    /// The list of contents; empty for none.
    pub contents: String,
    /// What it says.
    pub body: String,
    /// Rules beside those of every page.
    pub style: &'static str,
    /// A script that the page can be read without; empty for none.
    pub script: &'static str,
}

impl Page {
    /// The document.
    pub fn html(&self) -> String {
        let Page { lead, contents, body, style, script, .. } = self;
        let title = escape(&self.title);
        let contents = match contents.as_str() {
            "" => String::new(),
            contents => format!("<nav aria-label=\"Contents\">\n{contents}</nav>\n"),
        };
        let script = match *script {
            "" => String::new(),
            script => format!("<script>\n{script}</script>\n"),
        };
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
             <link rel=\"icon\" href=\"data:,\"/>\n\
             <title>{title}</title>\n<style>\n{STYLE}{style}</style>\n</head>\n<body>\n\
             <a class=\"skip\" href=\"#main\">Skip to the content</a>\n\
             <header>\n<h1>{title}</h1>\n{lead}</header>\n{contents}\
             <main id=\"main\">\n{body}</main>\n{script}</body>\n</html>\n"
        )
    }
}

/// The rules of every page. Charts are drawn for white paper; where the reader's screen is dark, the colours
/// of [`super::chart`] and [`super::plot`] are replaced one by one.
const STYLE: &str = "\
:root { color-scheme: light dark; --paper: #fff; --ink: #222; --soft: #555; --line: #ddd; --code: #f3f3f3;
  --link: #0b4f8a; --good: #00694b; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #17191d; --ink: #e6e6e6; --soft: #b4b8be; --line: #3c4048; --code: #24272d;
    --link: #8cc4f5; --good: #4fd1a5; --bad: #ff9d94; }
  svg [fill=\"#FFFFFF\"] { fill: #17191d; }
  svg [fill=\"#333333\"] { fill: #d8d8d8; }
  svg [stroke=\"#333333\"] { stroke: #9a9fa6; }
  svg [stroke=\"#DDDDDD\"] { stroke: #3c4048; }
  svg [fill=\"#222222\"] { fill: #f0f0f0; }
  svg [stroke=\"#222222\"] { stroke: #f0f0f0; }
  svg [fill=\"#0072B2\"] { fill: #4aa8e8; }
  svg [stroke=\"#0072B2\"] { stroke: #4aa8e8; }
  svg [stroke=\"#A9CBEA\"] { stroke: #3d5a75; }
  svg [stroke=\"#0B4F8A\"] { stroke: #8cc4f5; }
  svg [fill=\"#0B4F8A\"] { fill: #8cc4f5; }
}
body { margin: 0; background: var(--paper); color: var(--ink); font: 17px/1.5 system-ui, sans-serif; }
header, nav, main { max-width: 1120px; margin: 0 auto; padding: 0 16px; }
main { padding-bottom: 48px; }
a { color: var(--link); }
.skip { position: absolute; left: -999px; }
.skip:focus { left: 8px; top: 8px; padding: 4px 8px; background: var(--paper); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { font-size: 1.3rem; margin-top: 2.2em; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin-top: 1.6em; }
p, ul { max-width: 46em; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr));
  gap: 8px 24px; align-items: start; }
figure { margin: 12px 0; }
figure svg { width: 100%; height: auto; display: block; max-width: 720px; }
figure.grid img { width: 100%; max-width: 540px; height: auto; image-rendering: pixelated; display: block; }
figcaption { color: var(--soft); font-size: 0.88rem; max-width: 52em; }
code { font-size: 0.9em; background: var(--code); padding: 1px 4px; overflow-wrap: anywhere; }
.table { overflow-x: auto; margin-top: 4px; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 10px; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
thead th { white-space: normal; vertical-align: bottom; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }
tbody th { font-weight: 600; }
math { font-family: \"STIX Two Math\", \"Latin Modern Math\", \"Cambria Math\",
  \"DejaVu Math TeX Gyre\", math; }
.equation { overflow-x: auto; padding: 4px 0; }
dt { margin-top: 0.6em; }
dd { margin: 0 0 0 1.2em; }
@media print {
  :root { color-scheme: light; }
  body { font-size: 10pt; }
  nav, .skip { display: none; }
  figure, table, tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
}
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_landmarks_a_way_past_them_and_nothing_from_elsewhere() {
        let page =
            Page { title: "a < b".into(), body: paragraph("1 & 2"), style: "p { }", ..Page::default() }
                .html();
        for part in
            ["<title>a &lt; b</title>", "<h1>a &lt; b</h1>", "href=\"#main\"", "id=\"main\"", "1 &amp; 2"]
        {
            assert!(page.contains(part), "{part}");
        }
        assert!(!page.contains("<nav") && !page.contains("<script") && !page.contains("http"), "{page}");
    }

    #[test]
    fn pictures_say_what_they_show() {
        let html = figure("<svg width=\"1\"></svg>", "a \"b\"", "c");
        assert!(html.contains("<svg role=\"img\" aria-label=\"a &quot;b&quot;\" width=\"1\">"), "{html}");
        assert!(picture(&[1, 2, 3], "x", "y").contains("alt=\"x\" src=\"data:image/png;base64,AQID\""));
    }
}
